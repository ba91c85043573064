"""The kernels in vectorised torch, for CPUs and wherever Triton is not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import embedding_bag, pad

from sae_dist.kernels import host
from sae_dist.kernels.adam import AdamRows, AdamStep
from sae_dist.kernels.plain import GROUP, ROUNDING

if TYPE_CHECKING:
    from sae_dist.kernels.pattern import SparsePattern

_TILE = 32  # columns of bfloat16 that AMX multiplies at once
_BLOCK_ROWS = 512  # of weights, gradient and moments at once: a CPU's cache holds them

with warnings.catch_warnings(action="ignore"):  # torch says once that sparse tensors are in beta
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.empty(0).long(), torch.empty(0), (1, 1))


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    """z = x Wᵀ + b [b, f], and the maximum of each group of 32 latents [b, ⌈f/32⌉].

    bfloat16 products come back as float32, which holds what was rounded to bfloat16: torch compares
    bfloat16 slowly.
    """
    if W_fD.dtype is torch.bfloat16 and (missing := -x_bD.shape[1] % _TILE):
        # it reads on into the next row, times 0: what is NaN there would be NaN here
        x_bD, W_fD = pad(x_bD, (0, missing)), pad(W_fD, (0, missing))
    z_bf = torch.addmm(b_f.to(W_fD.dtype), x_bD, W_fD.T)
    if z_bf.dtype is torch.bfloat16:
        z_bf = z_bf.float()
    return z_bf, _grouped(z_bf, -torch.inf).amax(2)


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.group_errors`."""
    eps = torch.finfo(norm_f.dtype).eps
    W_error_f = error_f + 2 * width * eps * norm_f
    b_error_f = (b_f - b_f.to(dtype)).abs() + eps * (b_f.abs() + own_b_f.abs())
    W_error_g, W_norm_g, b_error_g = (
        _grouped(v_f[None], -torch.inf).amax(2)[0] for v_f in (W_error_f, norm_f, b_error_f)
    )
    return W_error_g, W_norm_g, b_error_g


def entries(
    z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor
) -> tuple[Tensor, Tensor]:
    """All (row, latent) with z + error_bound[row, group] ≥ floor[row], by row, then by latent [N].

    Groups whose maximum does not reach the floor are not read. NaN never qualifies.
    """
    lacks_bg = maxima_bg + error_bound_bg < floor_b[:, None]  # a maximum of NaN may hide an entry
    row_n, group_n = (~lacks_bg).nonzero(as_tuple=True)
    groups_ni = _grouped(z_bf, torch.nan).flatten(0, 1)
    reach_ni = groups_ni.index_select(0, row_n * lacks_bg.shape[1] + group_n)
    reach_ni += error_bound_bg[row_n, group_n, None]
    at_N, place_N = (reach_ni >= floor_b[row_n, None]).nonzero(as_tuple=True)
    return row_n[at_N], group_n[at_N] * GROUP + place_N


def _grouped(z_bf: Tensor, missing: float) -> Tensor:
    """[b, groups, 32], with what the last group lacks made up."""
    num_missing = -z_bf.shape[1] % GROUP
    if num_missing:
        z_bf = pad(z_bf, (0, num_missing), value=missing)
    return z_bf.unflatten(1, (-1, GROUP))


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each entry (b, f) the product u_b · W_f [N], without gathering rows.

    Latent by latent: W, which no cache holds, is read once, and u, which is smaller, many times.
    """
    order_N, offsets_F = code.by_latent
    zeros_N = u_BD.new_zeros(len(order_N))
    pattern = torch.sparse_csr_tensor(
        offsets_F, code.rows_N[order_N], zeros_N, (len(W_FD), len(u_BD)), check_invariants=False
    )
    return torch.empty_like(zeros_N).index_copy_(
        0, order_N, torch.sparse.sampled_addmm(pattern, W_FD, u_BD.T).values()
    )


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each row the sum of its entries' value · W_f [B, D]."""
    return _bags(values_N, W_FD, code.latents_N, code.offsets_B)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """For each latent the sum of its entries' value · u_b, in a fixed order.

    Returns:
        [F, D], or with `present_only` the rows of `code.present_R` alone [R, D].
    """
    order_N, offsets_F = code.by_latent
    if present_only:
        offsets_F = torch.cat([offsets_F[code.present_R], offsets_F[-1:]])
    return _bags(values_N[order_N], u_BD.contiguous(), code.rows_N[order_N], offsets_F)


def _bags(values_N: Tensor, table: Tensor, index_N: Tensor, offsets: Tensor) -> Tensor:
    return embedding_bag(
        index_N,
        table,
        offsets,
        mode="sum",
        per_sample_weights=values_N,
        include_last_offset=True,
    )


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `dispatch.centre_gradient`: of other latents the value is 0."""
    return -(grad_b_F @ W_FD)


def square_sum(v: Tensor) -> Tensor:
    """Σ v² in float64 without a tensor of squares."""
    return vector_norm(v, dim=-1).double().square().sum()


def moments(y_BE: Tensor) -> Tensor:
    """Σ y and Σ‖y‖² over the rows [E + 1] in float64, to be added up over the parts of a batch.

    Squares are taken around the rows' own mean, so that a large mean costs no digits.
    """
    mean_E = y_BE.mean(0)
    squares = square_sum(y_BE - mean_E) + len(y_BE) * square_sum(mean_E.double())
    return torch.cat([len(y_BE) * mean_E.double(), squares[None]])


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.residual`."""
    e_BE = torch.sub(y_BE, decoded_BE + b_E)
    sums_S = torch.cat([e_BE.sum(0).double(), square_sum(e_BE)[None]])
    return e_BE, sums_S, moments(y_BE)


def total_variance(moments: Tensor, num_rows: int | Tensor) -> Tensor:
    """Σ‖y-ȳ‖² with ȳ the mean of all rows, from their moments: an FVU's denominator.

    0 where rounding alone could leave as much of rows that are all equal.
    """
    left = moments[-1] - square_sum(moments[:-1]) / num_rows
    return torch.where(left <= ROUNDING * moments[-1], 0.0, left)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dispatch.explained`."""
    variation = total_variance(moments, num_rows)
    is_none = variation == 0
    scale = torch.where(is_none, num_rows, variation)
    fvu = torch.where(is_none, torch.nan, error / scale)
    return variation, scale, fvu, active.double() / num_rows


@torch.no_grad()
def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """See `dispatch.gradient_square`."""
    square = vector_norm(grad_RD).square()
    if W_FD is None:
        return square
    for block in _row_blocks(len(grad_RD)):
        w_rD = W_FD[block if rows_R is None else rows_R[block].clamp_max(len(W_FD) - 1)]
        square -= torch.linalg.vecdot(grad_RD[block], w_rD).square().sum()
    return square.clamp_min_(0.0)


@torch.no_grad()
def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    """Write ‖w‖ of each row, and where ŵ is kept ŵ and ‖w - ŵ‖."""
    for rows in _row_blocks(len(W_FD)):
        _round(rows, W_FD[rows], bf16_FD, error_F, norm_F)


@torch.no_grad()
def update_rows(
    rows: AdamRows,
    grad_RD: Tensor,
    rows_R: Tensor | None,
    adam: AdamStep,
    place_F: Tensor | None = None,
) -> None:
    """See `dispatch.update_rows`: block by block, all of it while the rows are here."""
    W_FD = rows.W_FD
    if host.is_at_hand(adam.skip) and adam.skip:
        return
    number = adam.number.float()
    divisor = adam.grad_scale.to(torch.float32).reciprocal()
    for block in _row_blocks(len(grad_RD)):
        at = block if rows_R is None else rows_R[block]
        grad_rD, w_rD, exp_avg_sq_rD = grad_RD[block], W_FD[at], rows.exp_avg_sq_FD[at]
        if adam.unit_norm:
            grad_rD.addcmul_(torch.linalg.vecdot(grad_rD, w_rD)[:, None], w_rD, value=-1)
        if rows.last_step_F is not None:
            last_r = rows.last_step_F[at]
            missed_r = (adam.number - 1 - last_r).masked_fill(adam.skip, 0).to(W_FD.dtype)
            exp_avg_sq_rD *= (adam.beta2**missed_r)[:, None]
            rows.last_step_F[at] = torch.where(adam.skip, last_r, adam.number)
        torch._fused_adam_(
            [w_rD],
            [grad_rD],
            [torch.zeros_like(w_rD) if rows.exp_avg_FD is None else rows.exp_avg_FD[at]],
            [exp_avg_sq_rD],
            [],
            [number],
            lr=adam.lr,
            beta1=adam.beta1,
            beta2=adam.beta2,
            weight_decay=0.0,
            eps=adam.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
            found_inf=adam.skip.float(),  # by which it knows on a GPU that nothing is to change
        )
        if adam.unit_norm:
            norms_r1 = vector_norm(w_rD, dim=1, keepdim=True).clamp_min(_tiny(W_FD))
            w_rD /= norms_r1.masked_fill_(adam.skip, 1.0)
        if rows_R is not None:
            W_FD[at], rows.exp_avg_sq_FD[at] = w_rD, exp_avg_sq_rD
        if rows.error_F is not None and rows.norm_F is not None:
            _round(at, w_rD, rows.bf16_FD, rows.error_F, rows.norm_F)


def decide(
    loss: Tensor,
    norm: Tensor,
    counts_3: Tensor,
    num_held: Tensor,
    clip_norm: float | None,
    may_hold: bool,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.decide`."""
    skip = ~torch.isfinite(loss + norm)
    if may_hold:
        skip |= num_held > 0
        num_held += skip
        counts_3[0] += ~skip
    else:
        counts_3 += torch.stack([~skip, skip, skip])
    counts_3[2] *= skip
    scale = torch.ones_like(norm) if clip_norm is None else (clip_norm / norm).clamp_max_(1.0)
    return skip, scale


def count_fired(
    silent_F: Tensor,
    fired_F: Tensor,
    window_tokens: Tensor,
    now_F: Tensor,
    num_tokens: int,
    skip: Tensor,
) -> None:
    """See `dispatch.count_fired`."""
    num_counted = num_tokens * ~skip
    silent_F += num_counted
    silent_F.masked_fill_((now_F > 0) & ~skip, 0)
    fired_F += now_F * ~skip
    window_tokens += num_counted


def _round(
    rows: slice | Tensor, w_rD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor
) -> None:
    norm_F[rows] = vector_norm(w_rD, dim=1)
    if bf16_FD is not None:
        half_rD = w_rD.to(bf16_FD.dtype)
        bf16_FD[rows] = half_rD
        error_F[rows] = vector_norm(w_rD - half_rD, dim=1)


def _row_blocks(num_rows: int) -> Iterator[slice]:
    for row in range(0, num_rows, _BLOCK_ROWS):
        yield slice(row, min(row + _BLOCK_ROWS, num_rows))


def _tiny(W_FD: Tensor) -> float:
    return torch.finfo(W_FD.dtype).tiny
