"""What every kernel must compute, in plain torch: clear first, fast second."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_DIGIT_BITS = 16
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def in_window(z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel K((z-θ)/ε) = 1 for -½ < (z-θ)/ε < ½: both ends are open."""
    return ((z_BF - threshold_F).abs() < bandwidth / 2).to(z_BF.dtype)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return torch.where(z_BF > threshold_F, z_BF, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor, Tensor, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_z_BF = torch.where(z_BF > threshold_F, grad_BF, 0.0)
        grad_threshold_BF = -(threshold_F / ctx.bandwidth) * window_BF * grad_BF
        return grad_z_BF, grad_threshold_BF.sum_to_size(threshold_F.shape), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth = bandwidth
        return (z_BF > threshold_F).to(z_BF.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[None, Tensor, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_threshold_BF = -(1.0 / ctx.bandwidth) * window_BF * grad_BF
        return None, grad_threshold_BF.sum_to_size(threshold_F.shape), None


def jumprelu(z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """`z · H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eqs. 3 and 11).

    ∂/∂z = 1[z > θ];  ∂/∂θ = -(θ/ε) K((z-θ)/ε), K the rectangle on the open interval (-½, ½).
    z may also be a list of entries [N], and θ their thresholds [N].
    """
    return _JumpReLU.apply(z_BF, threshold_F, bandwidth)


def step(z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """`H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eq. 12).

    ∂/∂z = 0;  ∂/∂θ = -(1/ε) K((z-θ)/ε). It takes the pre-activations: after JumpReLU, the lower
    half of the kernel's window would be lost.
    """
    return _Step.apply(z_BF, threshold_F, bandwidth)


def kth_largest(
    values: Tensor, k: int, sum_counts: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int, int]:
    """The k-th largest of the positive values, which may be spread over processes: exactly.

    A radix select: positive floats are ordered as their bits are, so a histogram, which
    `sum_counts` adds up over the processes, settles 16 bits a round. Two rounds for float32,
    whatever k is and however the values are spread.

    Returns:
        the value (0-dim; 0 if fewer than k are positive), how many are greater, how many equal.
    """
    bits = values[values > 0].view(_INTEGER[values.element_size()]).long()
    prefix, num_greater, num_equal = 0, 0, 0
    for shift in range(8 * values.element_size() - _DIGIT_BITS, -1, -_DIGIT_BITS):
        digits = (bits >> shift) & (2**_DIGIT_BITS - 1)
        counts = sum_counts(torch.bincount(digits, minlength=2**_DIGIT_BITS))
        from_top = counts.flip(0).cumsum(0)
        if int(from_top[-1]) < k - num_greater:
            return values.new_zeros(()), int(from_top[-1]), 0
        index = int(torch.searchsorted(from_top, k - num_greater))
        digit = len(counts) - 1 - index
        num_equal = int(counts[digit])
        num_greater += int(from_top[index]) - num_equal
        prefix = (prefix << _DIGIT_BITS) | digit
        bits = bits[digits == digit]
    value = torch.tensor(prefix, dtype=_INTEGER[values.element_size()], device=values.device)
    return value.view(values.dtype), num_greater, num_equal
