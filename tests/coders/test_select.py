"""Selection: exact, first row and first latent win ties, only positive values fire."""

import pytest
import torch
from torch import Tensor

from sae_dist.coders import BatchTopK, Coder, select
from sae_dist.coders.collectives import SingleProcess
from sae_dist.coders.select import batch_top_k, batch_top_k_code, top_k


def expected_top_k(z_BF: Tensor, k: int) -> Tensor:
    """By stable sorting of each row."""
    mask_BF = torch.zeros_like(z_BF, dtype=torch.bool)
    for mask_F, z_F in zip(mask_BF, z_BF, strict=True):
        mask_F[z_F.sort(descending=True, stable=True).indices[:k]] = True
    return mask_BF & (z_BF > 0)


def expected_batch_top_k(z_BF: Tensor, k: float) -> Tensor:
    """By stable sorting of the whole batch."""
    order = z_BF.flatten().sort(descending=True, stable=True).indices[: round(k * len(z_BF))]
    mask = torch.zeros(z_BF.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.view_as(z_BF) & (z_BF > 0)


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z_BF = torch.randn(33, 17, generator=generator)
    return {
        "distinct": z_BF,
        "ties": (2 * z_BF).round(),
        "all equal": torch.ones(33, 17),
        "all negative": -z_BF.abs(),
        "one row holds all winners": torch.cat([10 + z_BF[:1].abs(), z_BF[1:]]),
        "empty rows": torch.cat([z_BF[:16], torch.zeros(17, 17)]),
    }


@pytest.mark.parametrize("k", [0.4, 2.6])
@pytest.mark.parametrize("name", inputs())
def test_a_batch_takes_a_fraction_of_k(name: str, k: float) -> None:
    z_BF = inputs()[name]
    assert torch.equal(batch_top_k(z_BF, k, SingleProcess()), expected_batch_top_k(z_BF, k))


@pytest.mark.parametrize("k", [1, 4, 16, 17, 40])
@pytest.mark.parametrize("name", inputs())
def test_selection_equals_stable_sorting(name: str, k: int) -> None:
    z_BF = inputs()[name]
    assert torch.equal(top_k(z_BF, k, SingleProcess()), expected_top_k(z_BF, k))
    assert torch.equal(batch_top_k(z_BF, k, SingleProcess()), expected_batch_top_k(z_BF, k))


def test_a_row_of_nan_selects_nothing_and_harms_no_other_row_of_top_k() -> None:
    z_BF = inputs()["distinct"].clone()
    expected_BF = expected_top_k(z_BF, 4)
    z_BF[3] = torch.nan
    expected_BF[3] = False
    assert torch.equal(top_k(z_BF, 4, SingleProcess()), expected_BF)


def test_thresholds_that_differ_from_batch_to_batch_are_found_by_lower_guesses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    coder = Coder(BatchTopK(num_latents=256, k=4), 32, 32)
    coder.W_enc.data.normal_(generator=generator)
    coder.b_enc.data.zero_()
    x_BD = torch.randn(64, 32, generator=generator)
    batch_top_k_code(coder, x_BD, 4)
    monkeypatch.setattr(select, "topk_candidates", None)  # what costs many times as much
    for size in (0.7, 1.0, 0.5, 0.9):
        code, _ = batch_top_k_code(coder, size * x_BD, 4)
        z_BF = size * x_BD @ coder.W_enc.detach().T
        expected = batch_top_k(z_BF, 4, SingleProcess()).nonzero(as_tuple=True)
        assert torch.equal(code.rows_N, expected[0]) and torch.equal(code.latents_N, expected[1])
