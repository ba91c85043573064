"""Projection, Adam, unit norm and the bfloat16 copy of a matrix' rows in one pass over them."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_VALUES_A_WARP = 512  # of a row: 16 a thread, four at a time


@triton.jit(do_not_specialize=["step"])
def _update_rows(
    W_ptr,
    grad_ptr,
    rows_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    seen_ptr,
    half_ptr,
    error_ptr,
    norm_ptr,
    grad_scale_ptr,
    step,
    step_size,
    correction2_sqrt,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    log2_beta2,
    eps,
    width,
    UNIT_NORM: tl.constexpr,
    TILE_D: tl.constexpr,
):
    nth = tl.program_id(0).to(tl.int64)
    row = nth if rows_ptr is None else tl.load(rows_ptr + nth)
    col_D = tl.arange(0, TILE_D)
    inside_D = col_D < width
    here = row * width + col_D
    w_D = tl.load(W_ptr + here, mask=inside_D, other=0.0)
    g_D = tl.load(grad_ptr + nth * width + col_D, mask=inside_D, other=0.0)
    v_D = tl.load(exp_avg_sq_ptr + here, mask=inside_D, other=0.0)

    g_D *= tl.load(grad_scale_ptr)
    if UNIT_NORM:
        g_D -= tl.sum(g_D * w_D) * w_D
    if seen_ptr is not None:
        missed = (step - 1 - tl.load(seen_ptr + row)).to(tl.float32)
        v_D *= tl.exp2(missed * log2_beta2)
        tl.store(seen_ptr + row, step)
    m_D = g_D
    if exp_avg_ptr is not None:
        m_D = tl.load(exp_avg_ptr + here, mask=inside_D, other=0.0)
        m_D += (g_D - m_D) * one_minus_beta1
        tl.store(exp_avg_ptr + here, m_D, mask=inside_D)
    v_D = v_D * beta2 + g_D * g_D * one_minus_beta2
    tl.store(exp_avg_sq_ptr + here, v_D, mask=inside_D)
    denominator_D = tl.sqrt(v_D) / correction2_sqrt + eps
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
        tl.store(norm_ptr + row, tl.sqrt(tl.sum(w_D * w_D)))


def update_rows(
    W_FD: Tensor,
    grad_RD: Tensor,
    rows_R: Tensor | None,
    exp_avg_FD: Tensor | None,
    exp_avg_sq_FD: Tensor,
    seen_F: Tensor | None,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    grad_scale: Tensor,
    unit_norm: bool,
    half_FD: Tensor | None,
    error_F: Tensor | None,
    norm_F: Tensor | None,
) -> None:
    """One step of Adam (Kingma & Ba 2015, as in `torch.optim.Adam`) on some rows, in place.

    With `unit_norm` the part of the gradient along the (unit) row is taken out before, and the row
    is scaled to unit norm after; a zero row stays.

    Args:
        W_FD: the matrix, float32 like all that follows; everything must be contiguous.
        grad_RD: the gradient of the rows `rows_R` (int64, each once), or of all rows if that is
            None.
        exp_avg_FD: Adam's first moment; None where beta1 is 0.
        exp_avg_sq_FD: its second moment.
        seen_F: each row's last step, or 0; the steps since then count as ones without gradient.
            None if every row is given at every step; only without a first moment.
        step: counts from 1.
        grad_scale: 0-dim; the gradient is multiplied by it first.
        half_FD: a copy in bfloat16 to keep up, or None; with it
        error_F, norm_F: what the copy's rows are off by, ‖w - half‖, and ‖w‖.
    """
    assert exp_avg_FD is not None or beta1 == 0.0, "without a first moment beta1 must be 0"
    assert exp_avg_FD is None or seen_F is None, "a first moment moves rows at every step"
    num_rows, width = grad_RD.shape
    tile = triton.next_power_of_2(width)
    _update_rows[(num_rows,)](
        W_FD,
        grad_RD,
        rows_R,
        exp_avg_FD,
        exp_avg_sq_FD,
        seen_F,
        half_FD,
        error_F,
        norm_F,
        grad_scale,
        step,
        lr / (1.0 - beta1**step),
        math.sqrt(1.0 - beta2**step),
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        math.log2(beta2 or _TINY.value),  # beta2 = 0: next to nothing is left
        eps,
        width,
        UNIT_NORM=unit_norm,
        TILE_D=tile,
        num_warps=min(max(tile // _VALUES_A_WARP, 1), 16),
        enable_fp_fusion=True,
    )
