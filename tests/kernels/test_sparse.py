"""Sparse arithmetic against the dense one: patterns, products, gradients, odd shapes."""

import pytest
import torch
from torch import Tensor

from sae_dist.kernels import sparse
from sae_dist.kernels.pattern import SparsePattern

B, D, E, F = 13, 7, 5, 101


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": random(B, D),
        "W": random(F, D),
        "b": random(F),
        "V": random(F, E),
        "g": random(B, E),
    }


def pattern(density: float) -> tuple[SparsePattern, Tensor]:
    """A pattern with empty rows and latents, and its dense mask."""
    mask_BF = torch.rand(B, F, generator=torch.Generator().manual_seed(1)) < density
    mask_BF[[0, 5]] = False
    mask_BF[:, [0, 7, F - 1]] = False
    rows_N, latents_N = mask_BF.nonzero(as_tuple=True)
    return SparsePattern.from_rows(rows_N, latents_N, B, F), mask_BF


@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
def test_patterns_by_row_and_by_latent(density: float) -> None:
    code, mask_BF = pattern(density)
    rows_N, latents_N = mask_BF.nonzero(as_tuple=True)
    assert torch.equal(code.rows_N, rows_N)
    order_N, offsets_F = code.by_latent
    assert torch.equal(offsets_F.diff(), mask_BF.sum(0))
    pairs = torch.stack([latents_N[order_N], rows_N[order_N]], 1)
    assert torch.equal(pairs, mask_BF.T.nonzero())


@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
def test_values_and_gradients_equal_the_dense_ones(density: float) -> None:
    code, mask_BF = pattern(density)
    c_D = torch.linspace(-1, 1, D, dtype=torch.float64)

    def run(is_sparse: bool) -> list[Tensor]:
        t = tensors()
        W, b, V, c = (v.clone().requires_grad_() for v in (t["W"], t["b"], t["V"], c_D))
        z_BF = (t["x"] - c) @ W.T + b
        if is_sparse:
            z_N = z_BF.detach()[mask_BF]
            z_N = sparse.encode(z_N, t["x"] - c_D, W, b, c, code)
            y_BE = sparse.decode(z_N, V, code)
        else:
            y_BE = torch.where(mask_BF, z_BF, 0.0) @ V
        return [y_BE, *torch.autograd.grad((y_BE * t["g"]).sum(), [W, b, V, c])]

    for found, expected in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.9])
def test_gradients_by_rows_are_the_dense_ones_without_their_zeros(density: float) -> None:
    code, mask_BF = pattern(density)
    t = tensors()
    values_N = t["x"][:, 0][code.rows_N]

    def gradient(form: sparse.GradientForm) -> Tensor:
        V = t["V"].clone().requires_grad_()
        y_BE = sparse.decode(values_N, V, code, form)
        return torch.autograd.grad((y_BE * t["g"]).sum(), V)[0]

    dense_FE, by_rows_FE = gradient(sparse.GradientForm()), gradient(sparse.GradientForm(True))
    num_present = int(mask_BF.any(0).sum())
    assert by_rows_FE.is_sparse == (2 * num_present < F)
    if by_rows_FE.is_sparse:
        assert by_rows_FE.is_coalesced() and len(by_rows_FE.values()) == num_present
    assert torch.equal(by_rows_FE.to_dense(), dense_FE)
