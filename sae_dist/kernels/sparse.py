"""Encoding and decoding at the entries of a pattern: only what fired is touched."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.kernels.dispatch import centre_gradient, row_gradient, sddmm, spmm, spmm_t
from sae_dist.kernels.pattern import SparsePattern


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGradient:
    """The gradient of some rows of a matrix, where all others' is 0.

    Attributes:
        values_RD: the rows' gradients; those of rows that are none may be anything.
        rows_R: which rows, int64; None for all. Those of number F are none.
        place_F: in which of these each row stands, -1 for none, int32, where that is known.
        norms_R: of each row, as an optimizer sees it, where that is known.
    """

    values_RD: Tensor
    rows_R: Tensor | None = None
    place_F: Tensor | None = None
    norms_R: Tensor | None = None


@dataclass(frozen=True, slots=True)
class GradientForm:
    """How gradients of weights are made.

    Attributes:
        by_rows: as sparse tensors, of the rows whose latents have entries, if these are few.
        sums: the dtype that activations and errors are rounded to before they are summed; None
            leaves them as they are.
        has_unit_rows: whether the decoder's rows have unit norm, along which they do not move.
        placed: where gradients by rows are put, by weights, that patterns have with places that are
            no entries. Autograd would copy them; so none may be added to another. None: they are
            dense.
    """

    by_rows: bool = False
    sums: torch.dtype | None = None
    has_unit_rows: bool = False
    placed: dict[Tensor, RowGradient] | None = None


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
        if ctx.form.placed is None or not ctx.code.is_padded:
            grad_W_FE = _weight_gradient(values_N, grad_BE, ctx.code, ctx.form)
            return grad_values_N, grad_W_FE, None, None
        unit_FE = W_FE if ctx.form.has_unit_rows else None
        _place(W_FE, values_N, grad_BE, ctx.code, ctx.form, unit_FE)
        return grad_values_N, None, None, None


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
        return z_N.view_as(z_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        x_BD, W_FD = ctx.saved_tensors
        code, form, grad_W_FD = ctx.code, ctx.form, None
        if form.placed is None or not code.is_padded:
            order_N, offsets_F = code.by_latent
            grad_b_F = torch.segment_reduce(
                grad_N[order_N], "sum", offsets=offsets_F, initial=0, unsafe=True
            )  # or the host would look whether the offsets are some
            grad_W_FD = _weight_gradient(grad_N, x_BD, code, form)
        else:
            grad_b_F = _place(W_FD, grad_N, x_BD, code, form)
        grad_c_D = centre_gradient(grad_b_F, W_FD, code) if ctx.needs_input_grad[4] else None
        return None, None, grad_W_FD, grad_b_F, grad_c_D, None, None


def _place(
    W_FD: Tensor,
    values_N: Tensor,
    u_BD: Tensor,
    code: SparsePattern,
    form: GradientForm,
    unit_FD: Tensor | None = None,
) -> Tensor:
    """Put the gradient of some weights where it is looked for, and give Σ value [F]."""
    assert form.placed is not None
    dtype = form.sums or u_BD.dtype
    given = values_N.to(dtype), u_BD.to(dtype), code, unit_FD
    sums_RD, norms_R, totals_F = row_gradient(*given)
    runs = code.runs
    form.placed[W_FD] = RowGradient(
        values_RD=sums_RD, rows_R=runs.rows_R, place_F=runs.place_F, norms_R=norms_R
    )
    return totals_F


def _weight_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, form: GradientForm
) -> Tensor:
    dtype, is_few = form.sums or u_BD.dtype, False
    if form.by_rows and not code.is_padded:
        is_few = 2 * len(code.present_R) < code.num_latents
    sums = spmm_t(values_N.to(dtype), u_BD.to(dtype), code, present_only=is_few)
    sums = sums.to(u_BD.dtype)
    if not is_few:
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
