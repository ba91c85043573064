"""Encoding and decoding at the entries of a pattern: only what fired is touched."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels.dispatch import sddmm, spmm, spmm_t, weighted_sum
from sae_dist.kernels.pattern import SparsePattern


@dataclass(frozen=True, slots=True)
class GradientForm:
    """How gradients of weights are made.

    Attributes:
        by_rows: as sparse tensors, of the rows whose latents have entries, if these are few.
        in_places: the same of patterns with places that are no entries: then some of the rows are
            none, of number F.
        sums: the dtype that activations and errors are rounded to before they are summed; None
            leaves them as they are.
    """

    by_rows: bool = False
    in_places: bool = False
    sums: torch.dtype | None = None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values_N: Tensor, W_FE: Tensor, code: SparsePattern, form: GradientForm
    ) -> Tensor:
        ctx.code, ctx.form = code, form
        ctx.save_for_backward(values_N, W_FE)
        return spmm(values_N, W_FE, code)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BE: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        values_N, W_FE = ctx.saved_tensors
        grad_values_N = sddmm(grad_BE, W_FE, ctx.code)
        if not ctx.needs_input_grad[1]:
            return grad_values_N, None, None, None
        grad_W_FE = _weight_gradient(values_N, grad_BE, ctx.code, ctx.form)
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
        code: SparsePattern,
        form: GradientForm,
    ) -> Tensor:
        ctx.code, ctx.form = code, form
        ctx.save_for_backward(x_BD, W_FD)
        return z_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, W_FD = ctx.saved_tensors
        order_N, offsets_F = ctx.code.by_latent
        grad_b_F = torch.segment_reduce(
            grad_N[order_N], "sum", offsets=offsets_F, initial=0, unsafe=True
        )  # or the host would look whether the offsets are some
        grad_W_FD = _weight_gradient(grad_N, x_BD, ctx.code, ctx.form)
        grad_c_D = -weighted_sum(grad_b_F, W_FD, ctx.code) if ctx.needs_input_grad[4] else None
        return None, None, grad_W_FD, grad_b_F, grad_c_D, None, None


def _weight_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, form: GradientForm
) -> Tensor:
    dtype = form.sums or u_BD.dtype
    if code.is_padded:
        by_rows = form.in_places
    else:
        by_rows = form.by_rows and 2 * len(code.present_R) < code.num_latents
    sums = spmm_t(values_N.to(dtype), u_BD.to(dtype), code, present_only=by_rows)
    sums = sums.to(u_BD.dtype)
    if not by_rows:
        return sums
    shape = (code.num_latents, u_BD.shape[1])
    return torch.sparse_coo_tensor(code.present_R[None], sums, shape, is_coalesced=True)


def decode(
    values_N: Tensor, W_FE: Tensor, code: SparsePattern, form: GradientForm | None = None
) -> Tensor:
    """Σ value · W_f over each row's entries [B, E]; differentiable in values and W."""
    return _Decode.apply(values_N, W_FE, code, form or GradientForm())


def encode(
    z_N: Tensor,
    x_BD: Tensor,
    W_FD: Tensor,
    b_F: Tensor,
    c_D: Tensor,
    code: SparsePattern,
    form: GradientForm | None = None,
) -> Tensor:
    """Pre-activations z = W (x - c) + b that are known already [N], made differentiable.

    Args:
        z_N: their values at the entries of `code`.
        x_BD: the rows, centred already: x - c.
        W_FD, b_F, c_D: what they are differentiable in; the rows are not.
        form: of the gradient of W.
    """
    return _Encode.apply(z_N, x_BD, W_FD, b_F, c_D, code, form or GradientForm())
