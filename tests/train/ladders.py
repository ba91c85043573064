"""Small stores and ladders for the training tests."""

from dataclasses import replace
from pathlib import Path

import torch

from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import Form, Inputs, LevelWeights
from sae_dist.coders.kinds.jumprelu import TargetOf
from sae_dist.parallel import MeshConfig, World
from sae_dist.store import open_store, write_store
from sae_dist.stream import StoredActivations, StreamConfig
from sae_dist.train import Adam, LoopConfig, Muon, RungConfig, Signum, TrainingRun
from sae_dist.train.config import LogConfig, Precision, WandbMode
from tests.coders.kinds import FORMS, KINDS, config_of_kind

D, E, BATCH = 16, 12, 64
_SCHEDULE = {"warmup_steps": 10, "decay_share": 0.2, "clip_norm": 1.0, "sparsity_warmup_steps": 20}
OPTIMIZERS = [
    ("hierarchical_topk", Form.autoencoder, Adam(lr=3e-3, ema_decay=0.9, **_SCHEDULE)),
    ("batchtopk", Form.transcoder, Signum(lr=1e-3, **_SCHEDULE)),
    ("topk", Form.autoencoder, Muon(lr=1e-2, ema_decay=0.9, **_SCHEDULE)),
    ("gated", Form.skip_transcoder, Muon(lr=1e-2, **_SCHEDULE)),
]


def make_store(path: Path, num_tokens: int = 8192) -> Path:
    """A store of sparse combinations of 40 directions, and of a map of them."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, D, generator=generator), dim=1)
    active = torch.rand(num_tokens, 40, generator=generator) < 0.08
    x_ND = (active * torch.rand(num_tokens, 40, generator=generator)) @ directions + 0.2
    y_NE = torch.relu(x_ND @ torch.randn(D, E, generator=generator))
    arrays = {"in": [x_ND.numpy()], "out": [y_NE.numpy()]}
    write_store(path, arrays, dtype="float32", held_out=0.1, chunk_mib=0.006, shard_mib=0.03)
    return path


def rung(kind: str, form: Form = Form.autoencoder, latent: int | None = 1, **coder) -> RungConfig:
    """A rung of 32 latents, with AuxK and all schedules in play."""
    settings = {
        "num_latents": 32,
        "k": 4,
        "aux_k": 8,
        "aux_coefficient": 1 / 32,
        "dead_after_tokens": 4 * BATCH,
        "bandwidth": 0.05,
        "initial_l0": 8.0 if kind in ("relu", "gated") else None,
        "sparsity_coefficient": 0.02,
        "unit_norm_decoder": form is Form.autoencoder,
    }
    return RungConfig(
        name=f"{kind}-{form}",
        site="in",
        target="in" if form is Form.autoencoder else "out",
        coder=config_of_kind(kind, form=form, **(settings | coder)),
        optim=Adam(
            lr=3e-3,
            beta1=0.0 if kind == "jumprelu" else 0.9,
            warmup_steps=10,
            sparsity_warmup_steps=20,
            decay_share=0.2,
            clip_norm=1.0,
        ),
        parallel=MeshConfig(latent=latent),
    )


def every_rung(latent: int) -> list[RungConfig]:
    """A rung of each kind and form; of AbsTopK, whose forms are TopK's, an autoencoder; and
    Matryoshka coders.
    """
    every = [rung(kind, form, latent) for kind in KINDS for form in FORMS]
    annealed = {"k": 2.5, "initial_k": 12, "k_anneal_steps": 15}
    annealed |= {"levels": [0.1, 0.5], "level_weights": LevelWeights.by_size}
    priced = {"target_l0": 4.0, "target_of": TargetOf.token, "initial_l0": 6.0}
    priced |= {"pre_act_coefficient": 1e-3, "ste_reaches_input": True}
    annealed["inputs"], priced["inputs"] = Inputs.whitened, Inputs.unit
    nested = [
        rung("batchtopk", latent=latent, **annealed),
        rung("jumprelu", latent=latent, random_levels=3, **priced),
    ]
    nested = [replace(one, name=f"matryoshka_{one.coder.kind}") for one in nested]
    return [*every, rung("abstopk", latent=latent), *nested]


def every_optimizer(latent: int) -> list[RungConfig]:
    """A rung of each optimizer, of every kind and form."""
    return [
        replace(rung(kind, form, latent), name=f"{kind}-{form}-{optim.name}", optim=optim)
        for kind, form, optim in OPTIMIZERS
    ]


def training_run(
    world: World, store: Path, folder: Path, rungs: list[RungConfig], steps: int, **loop
) -> TrainingRun:
    """A run of `steps` steps in float64, logging each and saving every 20."""
    folder.mkdir(parents=True, exist_ok=True)
    log = {"wandb": WandbMode.disabled} | loop.pop("log", {})
    evaluate = loop.pop("evaluate", None)
    config = LoopConfig(
        tokens=loop.pop("tokens", steps * BATCH),
        batch_tokens=BATCH,
        precision=Precision.float64,
        stream=StreamConfig(bucket_tokens=2048),
        checkpoint=CheckpointConfig(every_steps=loop.pop("every_steps", 20), keep=3),
        log=LogConfig(every_steps=1, histogram_every_steps=10, **log),
        **loop,
    )
    source = StoredActivations(open_store(store))
    return TrainingRun(config, rungs, source, world, folder, evaluate=evaluate)
