"""Coders finetuned on what the language model loses by them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import load_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.finetune import Finetuning, FinetuningConfig, TrainingTokens
from sae_dist.lm import LM, LMConfig
from sae_dist.parallel import MeshConfig, World
from sae_dist.store import open_store
from sae_dist.stream import BatchPart, HeldOutPart, StreamConfig
from sae_dist.train import Adam, RungConfig, SharedRows
from sae_dist.train.config import LogConfig, Precision, WandbMode
from tests.evaluate.made_up import subject_of
from tests.harvest.tiny import POSITIONS, tiny_harvest
from tests.lm.tiny import tiny_model
from tests.processes import alone, run_on
from tests.train.ladders import rung, training_run
from tests.train.test_training import losses

SITE, BATCH_SEQUENCES = "resid_post.1", 4
KINDS = {"topk": {}, "batchtopk": {}, "jumprelu": {"sparsity_coefficient": 1e-4}}


def tiny_lm() -> LM:
    return LM(tiny_model("llama"), None, LMConfig(name="tiny"), "none")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a run of coders that were trained on it."""
    folder = tmp_path_factory.mktemp("finetune")
    tiny_harvest(folder / "store")
    rungs = [
        replace(rung(kind, num_latents=128, k=8, **told), site=SITE, target=SITE)
        for kind, told in KINDS.items()
    ]
    training_run(alone(), folder / "store", folder / "run", rungs, 60).run()
    return folder


def finetuning(world: World, made: Path, to: Path, steps: int, latent: int = 1) -> Finetuning:
    configs = [
        RungConfig(
            name=kind,
            site=SITE,
            target=SITE,
            init_from=str(made / "run" / "coders" / f"{kind}-autoencoder"),
            coder=rung(kind, num_latents=128, k=8, **told).coder,
            optim=Adam(lr=1e-3, beta1=0.9, warmup_steps=2, sparsity_warmup_steps=0, clip_norm=1.0),
            parallel=MeshConfig(latent=latent),
        )
        for kind, told in KINDS.items()
    ]
    config = FinetuningConfig(
        tokens=steps * BATCH_SEQUENCES * POSITIONS,
        batch_tokens=BATCH_SEQUENCES * POSITIONS,
        precision=Precision.float64,
        stream=StreamConfig(bucket_tokens=2048),
        checkpoint=CheckpointConfig(every_steps=5),
        log=LogConfig(every_steps=1, wandb=WandbMode.disabled),
    )
    source = TrainingTokens(open_store(made / "store"))
    to.mkdir(parents=True, exist_ok=True)
    return Finetuning(config, configs, source, world, to, lm=tiny_lm)


def reference_loss(p: dict[str, Tensor], scale: float, ids_NS: Tensor, trainable_NS: Tensor):
    """The topk coder's loss with the language model's, by hooks of our own."""
    model = tiny_model("llama")
    seen: list[Tensor] = []
    keep = model.model.layers[1].register_forward_hook(lambda m, a, out: seen.append(out))
    clean = model(input_ids=ids_NS).logits
    keep.remove()
    x = seen[0][trainable_NS].double() / scale
    z = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    kth = z.detach().sort(1, descending=True).values[:, 7:8]
    made = torch.where((z >= kth) & (z > 0), z, 0.0) @ p["W_dec"] + p["b_dec"]
    fvu = (x - made).square().sum() / (x - x.mean(0)).square().sum()

    def replaced(module: object, given: object, out: Tensor) -> Tensor:
        new = out.double().clone()
        new[trainable_NS] = made * scale
        return new.to(out.dtype)

    put = model.model.layers[1].register_forward_hook(replaced)
    logits = model(input_ids=ids_NS).logits
    put.remove()
    q, other = (v[:, :-1][trainable_NS[:, 1:]].log_softmax(-1) for v in (clean, logits))
    kl = (q.exp() * (q - other)).sum(-1).double().mean()
    return fvu + (fvu / kl).detach() * kl


def test_a_step_s_gradients_equal_the_reference(made: Path, tmp_path: Path) -> None:
    run = finetuning(alone(), made, tmp_path, 3)
    only = next(one for one in run.rungs if one.name == "topk")
    only.config.coder.aux_coefficient = 0.0
    run.rungs[:] = [only]
    p = {n: t.detach().clone().requires_grad_() for n, t in only.coder.named_parameters()}
    with run._batches() as batches:
        batch, _ = next(iter(batches))
    expected = reference_loss(p, only.scale, batch.acts["input_ids"], batch.acts["trainable"])
    expected.backward()
    found: dict[str, Tensor] = {}
    only.optimizer.step = lambda *_: found.update(  # type: ignore[method-assign]
        {n: t.grad.clone() for n, t in only.coder.named_parameters()}
    )
    (result,) = run._step(SharedRows(batch.acts, torch.float64))
    assert float(result.forward.loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert result.forward.parts["price"] == pytest.approx(result.forward.parts["reconstruction"])
    for name, grad in found.items():
        torch.testing.assert_close(grad.to_dense(), p[name].grad, rtol=1e-3, atol=1e-5, msg=name)


def divergence(made: Path, coder: Path) -> float:
    """KL(clean ‖ spliced) on held-out sequences."""
    source = TrainingTokens(open_store(made / "store"))
    (held_out,) = source.held_out([], HeldOutPart(batch_sequences=12))
    at = {"site": SITE, "target": SITE, "num_positions": POSITIONS}
    loss = LMLoss(subject_of(load_coder(coder), **at))
    loss.update(LMBatch(tiny_lm(), held_out.input_ids, held_out.trainable))
    return float(loss.result()["kl"])


def finetune(world: World, made: Path, to: Path, steps: int, latent: int) -> None:
    finetuning(world, made, to, steps, latent).run()


def test_the_language_model_loses_less_and_meshes_and_stops_change_nothing(
    made: Path, tmp_path: Path
) -> None:
    finetuning(alone(), made, tmp_path / "whole", 30).run()
    for name in KINDS:
        before = divergence(made, made / "run" / "coders" / f"{name}-autoencoder")
        assert divergence(made, tmp_path / "whole" / "coders" / name) < 0.9 * before, name
    expected = losses(tmp_path / "whole")
    for world, latent in ((2, 1), (2, 2)):
        run_on(world, finetune, made, tmp_path / f"{world}-{latent}", 10, latent)
        for name, values in losses(tmp_path / f"{world}-{latent}").items():
            assert values == pytest.approx(expected[name][:10], rel=1e-4), (world, latent, name)
    for steps in (15, 30):
        finetuning(alone(), made, tmp_path / "stopped", steps).run()
    for name in KINDS:
        whole, stopped = (
            load_coder(tmp_path / place / "coders" / name).state_dict()
            for place in ("whole", "stopped")
        )
        assert all(torch.equal(whole[key], stopped[key]) for key in whole), name


def test_every_world_reads_the_same_sequences(made: Path) -> None:
    source = TrainingTokens(open_store(made / "store"))
    size = BATCH_SEQUENCES * POSITIONS

    def ids(rank: int, world: int) -> list[dict[str, Tensor]]:
        part = BatchPart(size, 0, StreamConfig(), rank, world, stop_step=9)
        with source.batches([], part) as batches:
            read = zip(range(9), batches, strict=False)
            return [batch.acts for _, (batch, _) in read]

    whole, halves = ids(0, 1), [ids(rank, 2) for rank in range(2)]
    for one, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(one["input_ids"], torch.cat([part["input_ids"] for part in parts]))
        assert len({int(n) for n in one["trainable"].sum(1)}) == 1
        assert torch.equal(one["trainable"], torch.cat([part["trainable"] for part in parts]))
    with pytest.raises(UserError, match="found batch_tokens=9 for .*; expected whole sequences"):
        source.batches([], BatchPart(9, 0, StreamConfig()))
