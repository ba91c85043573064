"""What is computed in plain torch on every processor, and what all kernels know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP = 32  # latents that share a maximum
ROUNDING = 1e-12
"""Of Σ‖y‖²: what float32 may leave of a variance of 0."""
_DIGIT_BITS = 16
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def in_window(z_BF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel K((z-θ)/ε) = 1 for -½ < (z-θ)/ε < ½: both ends are open."""
    return ((z_BF - threshold_F).abs() < bandwidth / 2).to(z_BF.dtype)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float, reaches_z: bool
    ) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth, ctx.reaches_z = bandwidth, reaches_z
        return torch.where(z_BF > threshold_F, z_BF, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_z_BF = torch.where(z_BF > threshold_F, grad_BF, 0.0)
        grad_threshold_BF = -(threshold_F / ctx.bandwidth) * window_BF * grad_BF
        if ctx.reaches_z:
            grad_z_BF = grad_z_BF - grad_threshold_BF
        return grad_z_BF, grad_threshold_BF.sum_to_size(threshold_F.shape), None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BF: Tensor, threshold_F: Tensor, bandwidth: float, reaches_z: bool
    ) -> Tensor:
        ctx.save_for_backward(z_BF, threshold_F)
        ctx.bandwidth, ctx.reaches_z = bandwidth, reaches_z
        return (z_BF > threshold_F).to(z_BF.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        z_BF, threshold_F = ctx.saved_tensors
        window_BF = in_window(z_BF, threshold_F, ctx.bandwidth)
        grad_threshold_BF = -(1.0 / ctx.bandwidth) * window_BF * grad_BF
        grad_z_BF = -grad_threshold_BF if ctx.reaches_z else None
        return grad_z_BF, grad_threshold_BF.sum_to_size(threshold_F.shape), None, None


def jumprelu(
    z_BF: Tensor, threshold_F: Tensor, bandwidth: float, *, reaches_z: bool = False
) -> Tensor:
    """`z · H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eqs. 3 and 11).

    ∂/∂z = 1[z > θ];  ∂/∂θ = -(θ/ε) K((z-θ)/ε), K the rectangle on the open interval (-½, ½).
    z may also be a list of entries [N], and θ their thresholds [N]. With `reaches_z` the kernel's
    gradient reaches z, too: ∂/∂z = 1[z > θ] + (θ/ε) K((z-θ)/ε) (Anthropic, January 2025).
    """
    return _JumpReLU.apply(z_BF, threshold_F, bandwidth, reaches_z)


def step(z_BF: Tensor, threshold_F: Tensor, bandwidth: float, *, reaches_z: bool = False) -> Tensor:
    """`H(z - θ)` with straight-through gradients (Rajamanoharan et al. 2024b, eq. 12).

    ∂/∂z = 0, or with `reaches_z` (1/ε) K((z-θ)/ε);  ∂/∂θ = -(1/ε) K((z-θ)/ε). It takes the
    pre-activations: after JumpReLU, the lower half of the kernel's window would be lost.
    """
    return _Step.apply(z_BF, threshold_F, bandwidth, reaches_z)


def kth_largest(
    values: Tensor, k: int, sum_counts: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The k-th largest of the positive values, which may be spread over processes: exactly.

    A radix select: positive floats are ordered as their bits are, so a histogram, which
    `sum_counts` adds up over the processes, settles 16 bits a round. Two rounds for float32,
    whatever k is and however the values are spread; no host waits for a device.

    Returns:
        the value (0 if fewer than k are positive), how many are greater, how many equal (0-dim).
    """
    bits, integer = values.flatten(), _INTEGER[values.element_size()]
    is_open, bits = bits > 0, bits.view(integer).long()
    prefix = num_greater = num_equal = torch.zeros((), dtype=torch.int64, device=values.device)
    is_enough = None
    for shift in range(8 * values.element_size() - _DIGIT_BITS, -1, -_DIGIT_BITS):
        digits = (bits >> shift) & (2**_DIGIT_BITS - 1)
        counts = digits.new_zeros(2**_DIGIT_BITS).scatter_add_(0, digits, is_open.long())
        counts = sum_counts(counts)
        from_top = counts.flip(0).cumsum(0)
        is_enough = from_top[-1] >= k if is_enough is None else is_enough
        index = torch.searchsorted(from_top, k - num_greater).clamp_max(len(counts) - 1)
        digit = len(counts) - 1 - index
        num_equal = counts.gather(0, digit[None])[0]
        num_greater = num_greater + from_top.gather(0, index[None])[0] - num_equal
        prefix = (prefix << _DIGIT_BITS) | digit
        is_open = is_open & (digits == digit)
    value = prefix.to(integer).view(values.dtype)
    assert is_enough is not None
    return value * is_enough, num_greater + num_equal * ~is_enough, num_equal * is_enough
