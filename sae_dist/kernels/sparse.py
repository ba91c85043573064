"""Encoding and decoding at the entries of a pattern: only what fired is touched."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels.code import Code
from sae_dist.kernels.dispatch import entry_dots, latent_sums, row_sums


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_N: Tensor, W_FE: Tensor, code: Code, by_rows: bool) -> Tensor:
        ctx.code, ctx.by_rows = code, by_rows
        ctx.save_for_backward(values_N, W_FE)
        return row_sums(values_N, W_FE, code)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values_N, W_FE = ctx.saved_tensors
        grad_values_N = entry_dots(grad_BE, W_FE, ctx.code)
        grad_W_FE = _weight_gradient(values_N, grad_BE, ctx.code, ctx.by_rows)
        return grad_values_N, grad_W_FE, None, None


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_N: Tensor,
        x_BD: Tensor,
        W_FD: Tensor,
        b_F: Tensor,
        c_D: Tensor,
        code: Code,
        by_rows: bool,
    ) -> Tensor:
        ctx.code, ctx.by_rows = code, by_rows
        ctx.save_for_backward(x_BD, W_FD)
        return z_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, W_FD = ctx.saved_tensors
        order_N, offsets_F = ctx.code.by_latent
        grad_b_F = torch.segment_reduce(grad_N[order_N], "sum", offsets=offsets_F, initial=0)
        grad_W_FD = _weight_gradient(grad_N, x_BD, ctx.code, ctx.by_rows)
        grad_c_D = -(grad_b_F @ W_FD) if ctx.needs_input_grad[4] else None
        return None, None, grad_W_FD, grad_b_F, grad_c_D, None, None


def _weight_gradient(values_N: Tensor, u_BD: Tensor, code: Code, by_rows: bool) -> Tensor:
    sums = latent_sums(values_N, u_BD, code, present_only=by_rows)
    if not by_rows:
        return sums
    shape = (code.num_latents, u_BD.shape[1])
    return torch.sparse_coo_tensor(code.present_R[None], sums, shape, is_coalesced=True)


def decode(values_N: Tensor, W_FE: Tensor, code: Code, *, by_rows: bool = False) -> Tensor:
    """Σ value · W_f over each row's entries [B, E]; differentiable in values and W.

    With `by_rows` the gradient of W is a sparse tensor, of the rows whose latents have entries.
    """
    return _Decode.apply(values_N, W_FE, code, by_rows)


def encode(
    z_N: Tensor,
    x_BD: Tensor,
    W_FD: Tensor,
    b_F: Tensor,
    c_D: Tensor,
    code: Code,
    *,
    by_rows: bool = False,
) -> Tensor:
    """Pre-activations z = W (x - c) + b that are known already [N], made differentiable.

    Args:
        z_N: their values at the entries of `code`.
        x_BD: the rows, centred already: x - c.
        W_FD, b_F, c_D: what they are differentiable in; the rows are not.
        by_rows: whether W's gradient is a sparse tensor, of the rows whose latents have entries.
    """
    return _Encode.apply(z_N, x_BD, W_FD, b_F, c_D, code, by_rows)
