"""Encoding and decoding at the entries of a pattern: only what fired is touched."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels.code import Code
from sae_dist.kernels.dispatch import entry_dots, latent_sums, row_sums


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_N: Tensor, W_FE: Tensor, code: Code) -> Tensor:
        ctx.code = code
        ctx.save_for_backward(values_N, W_FE)
        return row_sums(values_N, W_FE, code)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor) -> tuple[Tensor, Tensor, None]:
        values_N, W_FE = ctx.saved_tensors
        grad_values_N = entry_dots(grad_BE, W_FE, ctx.code)
        return grad_values_N, latent_sums(values_N, grad_BE, ctx.code), None


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_N: Tensor, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, c_D: Tensor, code: Code
    ) -> Tensor:
        ctx.code = code
        ctx.save_for_backward(x_BD, W_FD)
        return z_N.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_N: Tensor
    ) -> tuple[None, None, Tensor, Tensor, Tensor | None, None]:
        x_BD, W_FD = ctx.saved_tensors
        order_N, offsets_F = ctx.code.by_latent
        grad_b_F = torch.segment_reduce(grad_N[order_N], "sum", offsets=offsets_F, initial=0)
        grad_W_FD = latent_sums(grad_N, x_BD, ctx.code)
        if not ctx.needs_input_grad[4]:
            return None, None, grad_W_FD, grad_b_F, None, None
        return None, None, grad_W_FD, grad_b_F, -(grad_b_F @ W_FD), None


def decode(values_N: Tensor, W_FE: Tensor, code: Code) -> Tensor:
    """Σ value · W_f over each row's entries [B, E]; differentiable in values and W."""
    return _Decode.apply(values_N, W_FE, code)


def encode(z_N: Tensor, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, c_D: Tensor, code: Code) -> Tensor:
    """Pre-activations z = W (x - c) + b that are known already [N], made differentiable.

    Args:
        z_N: their values at the entries of `code`.
        x_BD: the rows, centred already: x - c.
        W_FD, b_F, c_D: what they are differentiable in; the rows are not.
    """
    return _Encode.apply(z_N, x_BD, W_FD, b_F, c_D, code)
