"""What a bound is made of, in Triton and in torch, against its specification: NaN, short groups."""

import pytest
import torch

from sae_dist.kernels import vectorised
from tests.kernels import reference

triton_bound = pytest.importorskip(
    "sae_dist.kernels.triton_bound", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = pytest.mark.parametrize("kernels", [triton_bound, vectorised], ids=["triton", "torch"])


@KERNELS
@pytest.mark.parametrize("is_copied", [True, False])
def test_rows_are_rounded_and_measured(kernels, is_copied: bool) -> None:
    W_FD = torch.randn(5, 1100, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    W_FD[1], W_FD[2, 3] = 0.0, torch.nan

    def rounded(round_rows) -> list[torch.Tensor]:
        copy_FD = torch.zeros_like(W_FD, dtype=torch.bfloat16)
        error_F, norm_F = torch.zeros_like(W_FD[:, 0]), torch.zeros_like(W_FD[:, 0])
        round_rows(W_FD, copy_FD if is_copied else None, error_F, norm_F)
        return [copy_FD, error_F, norm_F]

    expected = rounded(reference.round_rows)
    for found, exact in zip(rounded(kernels.round_rows), expected, strict=True):
        torch.testing.assert_close(found, exact, equal_nan=True)


@KERNELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_errors_of_groups(kernels, dtype: torch.dtype) -> None:
    of_latents = torch.randn(4, 75, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    of_latents[:2] = of_latents[:2].abs()
    of_latents[1, 40] = torch.nan
    found = torch.stack(kernels.group_errors(*of_latents, dtype, 1000))
    expected = torch.stack(reference.group_errors(*of_latents, dtype, 1000))
    assert expected.isnan().sum() == 2
    torch.testing.assert_close(found, expected, equal_nan=True)
