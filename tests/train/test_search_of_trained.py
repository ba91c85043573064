"""How much the search leaves to be computed exactly once training has moved weights and values."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_dist.kernels import dispatch, search, topk_candidates
from sae_dist.parallel import make_mesh
from sae_dist.train import Adam, Rung, SharedRows, training_step
from sae_dist.train.config import Precision
from tests.processes import alone
from tests.train.ladders import rung

D, F, K, B, STEPS = 256, 4096, 16, 256, 120


def batches() -> list[Tensor]:
    """Sparse combinations of 512 directions around a mean, with some noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(512, D, generator=generator), dim=1)
    shape = STEPS + 1, B, 512
    active = torch.rand(shape, generator=generator) < 0.02
    scales = active * torch.rand(shape, generator=generator)
    noise = 0.02 * torch.randn(STEPS + 1, B, D, generator=generator)
    return list(scales @ directions + 0.05 + noise)


def test_at_most_two_and_a_half_k_values_of_a_row_are_exact_after_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)
    *given, last_BD = batches()
    config = rung("topk", num_latents=F, k=K, aux_coefficient=0.0)
    optim = Adam(lr=5e-3, beta1=0.9, warmup_steps=0)
    config = replace(config, site="x", target="x", optim=optim)
    world, mean_square = alone(), float(given[0].square().sum(1).mean())
    mesh = make_mesh(world, 1, {})
    trained = Rung(config, mesh, mean_square, D, D, Precision.float32, world.device)
    trained.initialise(0, given[0], given[0])
    fvus = []
    for step, x_BD in enumerate(given):
        rows = SharedRows({"x": x_BD}, torch.float32)
        fvus.append(float(training_step(trained, rows, step, STEPS).forward.fvu))
    assert fvus[-1] < 0.5 * fvus[0]  # it has learned

    counts, sddmm = [], dispatch.sddmm

    def counted(u_BD: Tensor, W_FD: Tensor, code: search.SparsePattern) -> Tensor:
        counts.append(len(code.latents_N))
        return sddmm(u_BD, W_FD, code)

    monkeypatch.setattr(dispatch, "sddmm", counted)
    x_BD = trained.coder.centring(last_BD / trained.scale)[0]
    with torch.no_grad():
        topk_candidates(x_BD, trained.coder.encoder(), K)
    assert K * B <= sum(counts) <= 2.5 * K * B, (sum(counts) / B, fvus[0], fvus[-1])
