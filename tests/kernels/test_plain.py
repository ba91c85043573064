"""What is computed in plain torch everywhere, against definitions written another way."""

import pytest
import torch

from sae_dist.kernels import jumprelu, kth_largest, step

EPSILON = 0.5


def pseudo_gradients(z: float, theta: float, epsilon: float) -> tuple[float, float, float]:
    """∂f/∂z, ∂f/∂θ and ∂H/∂θ of one entry, by the letter of the paper."""
    kernel = 1.0 if -0.5 < (z - theta) / epsilon < 0.5 else 0.0
    return float(z > theta), -(theta / epsilon) * kernel, -(1 / epsilon) * kernel


@pytest.mark.parametrize(
    "z",
    [0.5, 0.74, 0.75, 0.76, 0.9, 1.0, 1.1, 1.24, 1.25, 1.26, -1.0],
    ids=lambda z: f"z={z}",
)
def test_straight_through_gradients_of_one_entry(z: float) -> None:
    theta = 1.0  # the kernel's window is open: (0.75, 1.25)
    z_BF = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
    theta_F = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    grad_z, grad_theta, grad_step = pseudo_gradients(z, theta, EPSILON)

    f_BF = jumprelu(z_BF, theta_F, EPSILON)
    assert f_BF.item() == (z if z > theta else 0.0)
    found = torch.autograd.grad(f_BF.sum(), [z_BF, theta_F])
    assert (found[0].item(), found[1].item()) == (grad_z, grad_theta)

    h_BF = step(z_BF, theta_F, EPSILON)
    assert h_BF.item() == float(z > theta)
    found_z, found_theta = torch.autograd.grad(h_BF.sum(), [z_BF, theta_F], allow_unused=True)
    assert found_z is None
    assert found_theta.item() == grad_step


def test_gradients_sum_over_the_batch_with_the_incoming_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    z_BF = torch.randn(64, 8, dtype=torch.float64, generator=generator)
    theta_F = torch.rand(8, dtype=torch.float64, generator=generator)
    grad_BF = torch.randn(64, 8, dtype=torch.float64, generator=generator)
    z_BF.requires_grad_(), theta_F.requires_grad_()
    found_z, found_theta = torch.autograd.grad(
        jumprelu(z_BF, theta_F, EPSILON), [z_BF, theta_F], grad_BF
    )
    expected_theta = torch.zeros(8, dtype=torch.float64)
    for b in range(64):
        for f in range(8):
            grad_z, grad_theta, _ = pseudo_gradients(z_BF[b, f].item(), theta_F[f].item(), EPSILON)
            assert found_z[b, f] == grad_z * grad_BF[b, f]
            expected_theta[f] += grad_theta * grad_BF[b, f]
    torch.testing.assert_close(found_theta, expected_theta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 7, 1000, 5000, 10_000])
def test_kth_largest_equals_sorting(dtype: torch.dtype, k: int) -> None:
    values = torch.randn(100, 100, generator=torch.Generator().manual_seed(k)).to(dtype)
    positive = values[values > 0].sort(descending=True).values
    value, num_greater, num_equal = kth_largest(values, k, lambda counts: counts)
    if k > len(positive):
        assert (value.item(), num_greater, num_equal) == (0.0, len(positive), 0)
    else:
        assert value == positive[k - 1]
        assert num_greater == (positive > value).sum()
        assert num_equal == (positive == value).sum()


def test_kth_largest_ignores_zeros_and_minus_zero() -> None:
    values = torch.tensor([-0.0, 0.0, 3.0, -1.0, 2.0])
    assert kth_largest(values, 2, lambda counts: counts)[0] == 2.0
    assert kth_largest(values, 3, lambda counts: counts)[0] == 0.0
