"""A JumpReLU's encoder and decoder while most latents fire: dense, in blocks, kept nowhere."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels.plain import in_window

_BLOCK_LATENTS = {"cpu": 1 << 13, "cuda": 1 << 16}
_BLOCK_VALUES = {"cpu": 1 << 22, "cuda": 1 << 28}


class DensePass(NamedTuple):
    """What a dense pass gives.

    decoded_BE is Σ f W_dec, num_active the number of entries that fire (with θ's pseudo-gradient),
    fired_F on how many rows each latent fired, least the least positive activation (or ∞).
    """

    decoded_BE: Tensor
    num_active: Tensor
    fired_F: Tensor
    least: Tensor


def dense_jumprelu(
    x_BD: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    c_D: Tensor,
    threshold_F: Tensor,
    W_dec: Tensor,
    bandwidth: float,
) -> DensePass:
    """Encode, JumpReLU and decode, block by block; the backward pass computes z again.

    No tensor of B × F is ever held: four dense products become six.

    Args:
        x_BD: the rows, centred already: x - c. They get no gradient.
        W_enc, b_enc, c_D, threshold_F, W_dec: what it is differentiable in; gradients as those of
            `plain.jumprelu` and, for `num_active`, of `plain.step`.
        bandwidth: ε.
    """
    return DensePass(*_DenseJumpReLU.apply(x_BD, W_enc, b_enc, c_D, threshold_F, W_dec, bandwidth))


def _blocks(x_BD: Tensor, W_enc: Tensor) -> Iterator[tuple[slice, slice]]:
    """Latents and rows: all rows of some latents, then of the next, whose sums stay in a cache."""
    width = max(1, min(len(W_enc), _BLOCK_LATENTS[W_enc.device.type]))
    height = max(1, _BLOCK_VALUES[W_enc.device.type] // width)
    for latent in range(0, len(W_enc), width):
        for row in range(0, len(x_BD), height):
            yield slice(latent, latent + width), slice(row, row + height)


class _DenseJumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        c_D: Tensor,
        threshold_F: Tensor,
        W_dec: Tensor,
        bandwidth: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x_BD, W_enc, b_enc, threshold_F, W_dec)
        ctx.bandwidth = bandwidth
        decoded_BE = x_BD.new_zeros(len(x_BD), W_dec.shape[1])
        fired_F = torch.zeros(len(W_enc), dtype=torch.int64, device=x_BD.device)
        least = x_BD.new_full((), torch.inf)
        num_active = x_BD.new_zeros((), dtype=torch.int64)
        for latents, rows in _blocks(x_BD, W_enc):
            z_bf = torch.addmm(b_enc[latents], x_BD[rows], W_enc[latents].T)
            is_on_bf = z_bf > threshold_F[latents]
            num_active += is_on_bf.sum()
            acts_bf = z_bf.masked_fill_(~is_on_bf, 0.0)
            decoded_BE[rows].addmm_(acts_bf, W_dec[latents])
            fires_bf = acts_bf > 0
            fired_F[latents] += fires_bf.sum(0)
            least = torch.minimum(least, acts_bf.masked_fill_(~fires_bf, torch.inf).min())
        ctx.mark_non_differentiable(fired_F, least)
        return decoded_BE, num_active.to(x_BD.dtype), fired_F, least

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor, grad_num_active: Tensor, *_: Any) -> tuple[Any, ...]:
        x_BD, W_enc, b_enc, threshold_F, W_dec = ctx.saved_tensors
        grad_W_enc, grad_W_dec = torch.zeros_like(W_enc), torch.zeros_like(W_dec)
        grad_b_enc, grad_threshold_F = torch.zeros_like(b_enc), torch.zeros_like(threshold_F)
        for latents, rows in _blocks(x_BD, W_enc):
            threshold_f = threshold_F[latents]
            z_bf = torch.addmm(b_enc[latents], x_BD[rows], W_enc[latents].T)
            grad_bf = grad_BE[rows] @ W_dec[latents].T
            pseudo_bf = torch.addcmul(grad_num_active, threshold_f, grad_bf)
            pseudo_bf *= in_window(z_bf, threshold_f, ctx.bandwidth)
            grad_threshold_F[latents] -= pseudo_bf.sum(0) / ctx.bandwidth
            is_off_bf = ~(z_bf > threshold_f)
            grad_W_dec[latents].addmm_(z_bf.masked_fill_(is_off_bf, 0.0).T, grad_BE[rows])
            grad_bf.masked_fill_(is_off_bf, 0.0)
            grad_W_enc[latents].addmm_(grad_bf.T, x_BD[rows])
            grad_b_enc[latents] += grad_bf.sum(0)
        grad_c_D = -(grad_b_enc @ W_enc) if ctx.needs_input_grad[3] else None
        return None, grad_W_enc, grad_b_enc, grad_c_D, grad_threshold_F, grad_W_dec, None
