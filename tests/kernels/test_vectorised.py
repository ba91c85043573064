"""The kernels in vectorised torch against their specification."""

import pytest
import torch
from torch import Tensor

from sae_dist.kernels import vectorised
from sae_dist.kernels.pattern import SparsePattern
from tests.kernels import reference

SHAPES = [(1, 7, 1), (5, 24, 31), (33, 100, 33), (1, 100, 257), (5, 7, 100)]


def eighths(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers whose sums are exact in any order."""
    return torch.randint(-40, 41, shape, generator=generator) / 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_and_entries(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    (num_rows, width, num_latents), generator = shape, torch.Generator().manual_seed(0)
    x_BD = eighths(generator, num_rows, width).to(dtype)
    W_FD, b_F = eighths(generator, num_latents, width).to(dtype), eighths(generator, num_latents)
    if num_rows > 3:
        x_BD[3, 5] = torch.nan
    z_BF, maxima_BG = vectorised.product(x_BD, W_FD, b_F)
    expected_z, expected_maxima = reference.product(x_BD, W_FD, b_F)
    exact = {"rtol": 0.0, "atol": 0.0, "equal_nan": True}
    torch.testing.assert_close(z_BF.bfloat16(), expected_z, **exact)
    torch.testing.assert_close(maxima_BG.bfloat16().float(), expected_maxima, **exact)

    error_bound_BG = eighths(generator, *maxima_BG.shape).abs()
    for floor in (-torch.inf, 0.0, 20.0, torch.inf):
        floor_B = torch.full((num_rows,), floor)
        found = vectorised.entries(z_BF, maxima_BG, floor_B, error_bound_BG)
        expected = reference.entries(z_BF, maxima_BG, floor_B, error_bound_BG)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_dots(shape: tuple[int, int, int], density: float) -> None:
    (num_rows, width, num_latents), generator = shape, torch.Generator().manual_seed(0)
    mask_BF = torch.rand(num_rows, num_latents, generator=generator) < density
    code = SparsePattern.from_rows(*mask_BF.nonzero(as_tuple=True), num_rows, num_latents)
    values_N = torch.randn(len(code.latents_N), generator=generator)
    u_BD = torch.randn(num_rows, width, generator=generator)
    W_FD = torch.randn(num_latents, width, generator=generator)
    for name, given in {
        "spmm": (values_N, W_FD),
        "sddmm": (u_BD, W_FD),
        "spmm_t": (values_N, u_BD),
    }.items():
        found = getattr(vectorised, name)(*given, code)
        torch.testing.assert_close(found, getattr(reference, name)(*given, code))
    found = vectorised.spmm_t(values_N, u_BD, code, present_only=True)
    expected = reference.spmm_t(values_N, u_BD, code, present_only=True)
    torch.testing.assert_close(found, expected)
