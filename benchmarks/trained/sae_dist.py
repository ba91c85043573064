"""This project: `training_step` on a rung, as a run takes it, with the quickstart's settings."""

from itertools import accumulate
from typing import Any

import torch

from benchmarks.own import take_step
from benchmarks.timing import matmul_for
from benchmarks.trained.task import (
    AUX_COEFFICIENT,
    AUX_K,
    BANDWIDTH,
    BETA2,
    DEAD_AFTER,
    ENCODER_NORM,
    GROUPS,
    LR,
    MATRYOSHKA,
    NUM_LATENTS,
    SPARSITY,
    THRESHOLD,
    TOLD_K,
    Task,
    Weights,
    finish,
)
from sae_dist.coders import fold, kind_named
from sae_dist.interop import plain_tensors
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import Adam, Rung, RungConfig, SharedRows
from sae_dist.train.config import Precision

_SAMPLE_TOKENS = 8192


def make_rung(task: Task, world: World, **more: Any) -> Rung:
    """The quickstart's rung of that kind, on a 1×1 mesh, with its first weights; `more` settings of
    the coder take the place of its own.
    """
    told_k = task.kind in TOLD_K
    own: dict[str, Any] = {"sparsity_coefficient": task.aim}
    if task.kind == "jumprelu":
        own = {
            "bandwidth": BANDWIDTH,
            "initial_threshold": THRESHOLD,
            "sparsity_coefficient": SPARSITY,
            "target_l0": task.aim,
        }
    elif told_k:
        own = {"k": int(task.aim), "aux_k": AUX_K, "aux_coefficient": AUX_COEFFICIENT}
    if task.kind == MATRYOSHKA:
        own["levels"] = list(accumulate(GROUPS[:-1]))
    coder = kind_named(task.kind.removeprefix("matryoshka_"))(
        num_latents=NUM_LATENTS,
        initial_encoder_norm=ENCODER_NORM[task.kind],
        dead_after_tokens=DEAD_AFTER,
        **(own | more),
    )
    optim = Adam(
        lr=LR[task.kind],
        beta1=0.9 if told_k else 0.0,
        beta2=BETA2[task.kind],
        eps=6.25e-10 if task.kind == "topk" else 1e-8,
        warmup_steps=task.warmup_steps,
        decay_share=task.decay_share,
        sparsity_warmup_steps=task.sparsity_warmup_steps,
        clip_norm=1.0 if told_k else None,
    )
    config = RungConfig(name=task.kind, site="x", target="x", coder=coder, optim=optim)
    mesh = make_mesh(world, 1, {})
    rung = Rung(config, mesh, 1.0, task.d_in, task.d_in, Precision(task.setting), world.device)
    sample_ND = task.x_ND[:_SAMPLE_TOKENS].to(world.device)
    rung.initialise(task.seed, sample_ND, sample_ND)
    return rung


def take_steps(rung: Rung, task: Task) -> None:
    """The whole run."""
    for step, x_BD in enumerate(task.batches()):
        take_step(rung, SharedRows({"x": x_BD}, torch.float32), step, task.num_steps)


def train(task: Task) -> float:
    """Train one coder and write its weights; the task's setting is a precision."""
    torch.set_float32_matmul_precision(matmul_for(task.setting))
    with start_world() as world:
        rung = make_rung(task, world)
        take_steps(rung, task)
        torch.set_float32_matmul_precision("highest")
        coder = fold(rung.coder, 1.0)
        tensors = plain_tensors(coder)
        weights = Weights(**{name: tensor.to(world.device) for name, tensor in tensors.items()})
        return finish(task, weights, coder, 1.0)
