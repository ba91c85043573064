"""Steps through Triton's programs, interpreted, end where those of vectorised torch do."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import sae_dist.coders.passes
from sae_dist.kernels import dispatch, host, search
from sae_dist.parallel import make_mesh
from sae_dist.train import Adam, Rung, SharedRows, training_step
from sae_dist.train.config import Precision
from sae_dist.train.step import repeat_step
from tests.processes import alone
from tests.train.ladders import D, rung

pytest.importorskip("triton", reason="needs triton")

B, STEPS = 4, 4
KINDS = [
    ("topk", {"k": 2, "aux_k": 2}, 0.9),
    ("topk", {"k": 2, "aux_coefficient": 0.0}, 0.0),
    ("abstopk", {"k": 2, "aux_coefficient": 0.0}, 0.9),
    ("batchtopk", {"k": 2, "aux_coefficient": 0.0, "multi_topk": True}, 0.9),
    ("jumprelu", {}, 0.0),
    ("hierarchical_topk", {"k": 3, "aux_coefficient": 0.0}, 0.9),
    ("batchtopk", {"k": 2, "aux_coefficient": 0.0, "levels": [0.25, 0.5]}, 0.9),
    ("gated", {}, 0.9),
]


def after_some_steps(kind: str, more: dict[str, Any], beta1: float) -> Rung:
    """A rung whose second batch has far more to find than its first, and whose third is NaN."""
    config = replace(rung(kind, num_latents=48, dead_after_tokens=6, **more), site="x", target="x")
    adam = Adam(lr=1e-2, beta1=beta1, eps=1e-4, warmup_steps=0, clip_norm=0.1)  # ε > rounding
    config = replace(config, optim=adam)
    world = alone()
    trained = Rung(config, make_mesh(world, 1, {}), 1.0, D, D, Precision.float32, world.device)
    batches = torch.randn(STEPS, B, D, generator=torch.Generator().manual_seed(0))
    trained.initialise(0, batches[0], batches[0])
    if kind == "jumprelu":
        trained.coder.threshold.data.fill_(1.5)
        batches[0] /= 4
    batches[2, 1, 3] = torch.nan
    for step, x_BD in enumerate(batches):
        rows = SharedRows({"x": x_BD}, torch.float32)
        training_step(trained, rows, step, STEPS)
        if trained.progress.num_held:
            repeat_step(trained, rows, step, STEPS)
    return trained


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more", "beta1"), KINDS, ids=str)
def test_four_steps_of_each_kind(
    kind: str, more: dict[str, Any], beta1: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)
    monkeypatch.setattr(sae_dist.coders.passes, "rounded_dtype", lambda W_FD: torch.float32)
    monkeypatch.setattr(dispatch, "_on_triton", lambda x: False)
    expected = after_some_steps(kind, more, beta1)
    monkeypatch.setattr(dispatch, "_on_triton", lambda x: True)
    monkeypatch.setattr(host, "is_at_hand", lambda x: False)
    found = after_some_steps(kind, more, beta1)
    assert found.progress.numbers() == expected.progress.numbers()
    assert found.progress.numbers()["num_skipped"] == 1
    for (name, tensor, _), (_, exact, _) in zip(found.held(), expected.held(), strict=True):
        torch.testing.assert_close(tensor, exact, rtol=2e-4, atol=2e-6, msg=name)
