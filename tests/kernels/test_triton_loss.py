"""Errors and their sums in Triton against their specification: odd shapes, NaN, no variance."""

import pytest
import torch

from sae_dist.kernels import vectorised
from tests.kernels import reference

triton_loss = pytest.importorskip(
    "sae_dist.kernels.triton_loss", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = pytest.mark.parametrize("kernels", [triton_loss, vectorised], ids=["triton", "torch"])


@KERNELS
@pytest.mark.parametrize("shape", [(1, 7), (33, 300)], ids=str)
def test_errors_and_their_moments(kernels, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    y_BE, decoded_BE = (torch.randn(shape, generator=generator).to(DEVICE) for _ in range(2))
    b_E = y_BE[0] + 1000  # a mean that is large
    found = kernels.residual(y_BE, decoded_BE, b_E)
    for one, expected in zip(found, reference.residual(y_BE, decoded_BE, b_E), strict=True):
        assert one.dtype == expected.dtype
        torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(kernels.moments(y_BE), found[2], rtol=1e-6, atol=1e-4)


@KERNELS
@pytest.mark.parametrize("case", ["varied", "all equal", "zeros", "nan"])
def test_shares_of_what_varies(kernels, case: str) -> None:
    y_BE = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y_BE = {"all equal": y_BE[:1].expand(9, 5), "zeros": 0 * y_BE}.get(case, y_BE)
    if case == "nan":
        y_BE[0, 0] = torch.nan
    sums, error = reference.moments(y_BE), torch.full((), 3.0, dtype=torch.float64, device=DEVICE)
    active = torch.full((), 12, device=DEVICE)
    found = torch.stack(kernels.explained(sums, error, active, 9))
    expected = torch.stack(reference.explained(sums, error, active, 9))
    torch.testing.assert_close(found, expected, equal_nan=True)
