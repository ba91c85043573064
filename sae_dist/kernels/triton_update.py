"""Projection, Adam, unit norm and the bfloat16 copy of a matrix' rows in one pass over them."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_dist.kernels.adam import AdamRows, AdamStep

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_VALUES_A_WARP = 512  # of a row: 16 a thread, four at a time


@triton.jit
def _row_and_gradient(rows_ptr, place_ptr, nth):
    """The nth row to visit, and where its gradient stands: nowhere, -1, if it is 0."""
    row = nth if rows_ptr is None else tl.load(rows_ptr + nth)
    place = nth if place_ptr is None else tl.load(place_ptr + row).to(tl.int64)
    return row, place


@triton.jit
def _update_rows(
    W_ptr,
    grad_ptr,
    rows_ptr,
    place_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    seen_ptr,
    half_ptr,
    error_ptr,
    norm_ptr,
    grad_scale_ptr,
    number_ptr,
    skip_ptr,
    lr_ptr,
    lr,
    log2_beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    log2_beta2,
    eps,
    num_rows,
    width,
    UNIT_NORM: tl.constexpr,
    TILE_D: tl.constexpr,
):
    if tl.load(skip_ptr):
        return
    if lr_ptr is not None:
        lr = tl.load(lr_ptr)
    nth = tl.program_id(0).to(tl.int64)
    number = tl.load(number_ptr)
    exponent = number.to(tl.float64)
    step_size = (lr / (1.0 - tl.exp2(exponent * log2_beta1))).to(tl.float32)
    correction2 = (1.0 - tl.exp2(exponent * log2_beta2)).to(tl.float32)
    row, place = _row_and_gradient(rows_ptr, place_ptr, nth)
    if row >= num_rows:  # there is room for more rows than there are
        return
    col_D = tl.arange(0, TILE_D)
    inside_D = col_D < width
    here = row * width + col_D
    w_D = tl.load(W_ptr + here, mask=inside_D, other=0.0)
    is_read_D = col_D < tl.where(place >= 0, width, 0)
    g_D = tl.load(grad_ptr + place * width + col_D, mask=is_read_D, other=0.0)
    v_D = tl.load(exp_avg_sq_ptr + here, mask=inside_D, other=0.0)

    g_D *= tl.load(grad_scale_ptr)
    if UNIT_NORM:
        g_D -= tl.sum(g_D * w_D) * w_D
    if seen_ptr is not None:
        missed = (number - 1 - tl.load(seen_ptr + row)).to(tl.float32)
        v_D *= tl.exp2(missed * log2_beta2)
        tl.store(seen_ptr + row, number)
    m_D = g_D
    if exp_avg_ptr is not None:
        m_D = tl.load(exp_avg_ptr + here, mask=inside_D, other=0.0)
        m_D += (g_D - m_D) * one_minus_beta1
        tl.store(exp_avg_ptr + here, m_D, mask=inside_D)
    v_D = v_D * beta2 + g_D * g_D * one_minus_beta2
    tl.store(exp_avg_sq_ptr + here, v_D, mask=inside_D)
    denominator_D = tl.sqrt(v_D) / tl.sqrt(correction2) + eps
    # Beyond the width 0 / 0 may be NaN where eps is 0.
    w_D -= tl.where(inside_D, step_size * m_D / denominator_D, 0.0)

    if UNIT_NORM:
        w_D /= tl.maximum(tl.sqrt(tl.sum(w_D * w_D)), _TINY)
    tl.store(W_ptr + here, w_D, mask=inside_D)
    if half_ptr is not None:
        half_D = w_D.to(tl.bfloat16)
        tl.store(half_ptr + here, half_D, mask=inside_D)
        lost_D = w_D - half_D.to(tl.float32)
        tl.store(error_ptr + row, tl.sqrt(tl.sum(lost_D * lost_D)))
    if norm_ptr is not None:
        tl.store(norm_ptr + row, tl.sqrt(tl.sum(w_D * w_D)))


def update_rows(
    rows: AdamRows,
    grad_RD: Tensor,
    rows_R: Tensor | None,
    adam: AdamStep,
    place_F: Tensor | None = None,
) -> None:
    """See `dispatch.update_rows`; everything is float32 and contiguous."""
    is_first_kept = rows.exp_avg_FD is not None
    assert is_first_kept or adam.beta1 == 0.0, "without a first moment beta1 must be 0"
    assert not is_first_kept or rows.last_step_F is None, "a first moment moves rows at every step"
    num_rows, width = grad_RD.shape
    if rows_R is None or not is_first_kept:
        place_F = None
    else:
        place_F = _places(rows_R, len(rows.W_FD)) if place_F is None else place_F
        num_rows, rows_R = len(place_F), None
    tile = triton.next_power_of_2(width)
    _update_rows[(num_rows,)](
        rows.W_FD,
        grad_RD,
        rows_R,
        place_F,
        rows.exp_avg_FD,
        rows.exp_avg_sq_FD,
        rows.last_step_F,
        rows.bf16_FD,
        rows.error_F,
        rows.norm_F,
        adam.grad_scale,
        adam.number,
        adam.skip,
        adam.lr if isinstance(adam.lr, Tensor) else None,
        0.0 if isinstance(adam.lr, Tensor) else adam.lr,
        math.log2(adam.beta1 or _TINY.value),  # of a beta of 0 next to nothing is left
        1.0 - adam.beta1,
        adam.beta2,
        1.0 - adam.beta2,
        math.log2(adam.beta2 or _TINY.value),
        adam.eps,
        len(rows.W_FD),
        width,
        UNIT_NORM=adam.unit_norm,
        TILE_D=tile,
        num_warps=min(max(tile // _VALUES_A_WARP, 1), 16),
        enable_fp_fusion=True,
    )


def _places(rows_R: Tensor, num_rows: int) -> Tensor:
    """Where each row's gradient stands, or -1, int32 [F]; what is none has a place behind."""
    place_R = torch.arange(len(rows_R), dtype=torch.int32, device=rows_R.device)
    return place_R.new_full((num_rows + 1,), -1).scatter_(0, rows_R, place_R)[:-1]


@triton.jit
def _squares(grad_ptr, rows_ptr, W_ptr, square_ptr, num_rows, width, TILE_D: tl.constexpr):
    nth = tl.program_id(0).to(tl.int64)
    row = nth
    if rows_ptr is not None:
        row = tl.load(rows_ptr + nth)
    col_D = tl.arange(0, TILE_D)
    inside_D = col_D < tl.where(row < num_rows, width, 0)  # some rows may be none
    g_D = tl.load(grad_ptr + nth * width + col_D, mask=inside_D, other=0.0)
    square = tl.sum(g_D * g_D)
    if W_ptr is not None:
        along = tl.sum(g_D * tl.load(W_ptr + row * width + col_D, mask=inside_D, other=0.0))
        square -= along * along
    tl.store(square_ptr + nth, square)


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """See `dispatch.gradient_square`; everything is float32 and contiguous."""
    num_rows, width = grad_RD.shape
    square_R = grad_RD.new_empty(num_rows)
    tile = triton.next_power_of_2(width)
    if num_rows:
        _squares[(num_rows,)](
            grad_RD.contiguous(),
            None if W_FD is None else rows_R,  # whatever rows they are
            W_FD,
            square_R,
            num_rows if W_FD is None else len(W_FD),
            width,
            TILE_D=tile,
            num_warps=min(max(tile // _VALUES_A_WARP, 1), 16),
            enable_fp_fusion=True,
        )
    return square_R.sum().clamp_min(0.0)
