"""One way to every kernel: Triton's on NVIDIA GPUs, vectorised torch everywhere else."""

from __future__ import annotations

import importlib
import importlib.util
from math import gcd
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_dist.kernels import vectorised
from sae_dist.kernels.adam import AdamRows, AdamStep
from sae_dist.kernels.bound import Bound
from sae_dist.kernels.vectorised import total_variance

if TYPE_CHECKING:
    from sae_dist.kernels.pattern import LatentRuns, SparsePattern

__all__ = [
    "centre_gradient",
    "count_fired",
    "decide",
    "entries",
    "entries_in",
    "explained",
    "gradient_square",
    "group_errors",
    "is_fused",
    "latent_runs",
    "moments",
    "product",
    "residual",
    "round_rows",
    "row_gradient",
    "sddmm",
    "spmm",
    "spmm_t",
    "topk",
    "total_variance",
    "update_rows",
    "updates_in_places",
]

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_FOLDED_WIDTH = 1024  # of a vector's rows, if it can be divided into such
_MULTIPLIED = (torch.float32, torch.bfloat16)


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    """z = x Wᵀ + b in bfloat16 [b, f], and in float32 each group's maximum [b, ⌈f / 32⌉]."""
    if _on_triton(x_bD) and W_fD.dtype is torch.bfloat16:
        from sae_dist.kernels import triton_product

        return triton_product.product(x_bD, W_fD, b_f)
    return vectorised.product(x_bD, W_fD, b_f)


def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    """Write ‖w‖ of each row, and where ŵ is kept ŵ and ‖w - ŵ‖."""
    _kernels("triton_bound", W_FD, torch.float32).round_rows(W_FD, bf16_FD, error_F, norm_F)


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest ‖w - ŵ‖, ‖w‖ and |b - b̂| of each group of latents [⌈f / 32⌉].

    With what sums of `width` products, and that of z, can lose in the dtype of what is given.

    Args:
        b_f, own_b_f: the bias of the search, and the one that z has.
        dtype: of the search.
    """
    return _kernels("triton_bound", norm_f, torch.float32).group_errors(
        error_f, norm_f, b_f, own_b_f, dtype, width
    )


def entries(
    z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor
) -> tuple[Tensor, Tensor]:
    """All (row, latent) with z + bound[row, group] >= floor[row], by row, then by latent [N]."""
    if _on_triton(z_bf) and z_bf.dtype is torch.bfloat16:
        from sae_dist.kernels import triton_product

        return triton_product.entries(z_bf, maxima_bg, floor_b, error_bound_bg)
    return vectorised.entries(z_bf, maxima_bg, floor_b, error_bound_bg)


def is_fused(x_bD: Tensor) -> bool:
    """Whether what a search finds of such rows is put in places, and no host waits for its number:
    `entries_in` and `topk` are there.
    """
    return _on_triton(x_bD) and x_bD.dtype is torch.bfloat16


def entries_in(
    latents_N: Tensor,
    z_bf: Tensor,
    maxima_bg: Tensor,
    floor_b: Tensor,
    error_bound_bg: Tensor,
    num_before: Tensor,
) -> Tensor:
    """Write the latents of `entries` behind the first `num_before` places, as far as there are any.

    Returns:
        where each row's entries begin, and the last one's end, int64 [b + 1].
    """
    from sae_dist.kernels import triton_product

    given = z_bf, maxima_bg, floor_b, error_bound_bg
    return triton_product.entries_in(latents_N, *given, num_before)


def topk(
    x_bD: Tensor,
    W_FD: Tensor,
    b_F: Tensor,
    z_bF: Tensor,
    maxima_bg: Tensor,
    bound: Bound,
    k: int,
    *,
    is_exact: bool,
) -> tuple[Tensor, Tensor]:
    """The k largest positive entries of each row of z = x Wᵀ + b; see `triton_search.topk`."""
    from sae_dist.kernels import triton_search

    return triton_search.topk(x_bD, W_FD, b_F, z_bF, maxima_bg, bound, k, is_exact=is_exact)


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each entry (b, f) the product u_b · W_f [N]; 0 where there is none."""
    return _kernels("triton_sparse", u_BD, *_MULTIPLIED).sddmm(u_BD, W_FD, code)


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """For each row the sum of its entries' value · W_f [B, D]."""
    return _kernels("triton_sparse", W_FD, *_MULTIPLIED).spmm(values_N, W_FD, code)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """For each latent the sum of its entries' value · u_b [F, D], or of those with any [R, D]."""
    return _kernels("triton_sparse", u_BD, *_MULTIPLIED).spmm_t(
        values_N, u_BD, code, present_only=present_only
    )


def latent_runs(latents_N: Tensor, num_latents: int) -> LatentRuns:
    """The places of a pattern latent by latent; those of latent F are no entries.

    Of rows that latents have there are min(N, F): with N ≥ F places each latent has its own, with
    fewer the one with the number of its first place in this order. For patterns that have room for
    more than there is.
    """
    from sae_dist.kernels import triton_sparse

    return triton_sparse.latent_runs(latents_N, num_latents)


def row_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, unit_FD: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`spmm_t` of the rows of `code.present_R`, with what else is asked of a gradient; of such
    patterns.

    Args:
        unit_FD: rows of unit norm, of which norms leave out what lies along them.

    Returns:
        the sums [R, D], of which those of number F need not be written; their norms [R], 0 of
        these; and Σ value of each latent [F].
    """
    from sae_dist.kernels import triton_sparse

    return triton_sparse.row_gradient(values_N, u_BD, code, unit_FD)


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """-Σ value · W_f over the latents that have entries [D]: the gradient of c in W (x - c) + b."""
    kernels = _kernels("triton_sparse", W_FD, *_MULTIPLIED) if code.is_padded else vectorised
    return kernels.centre_gradient(grad_b_F, W_FD, code)


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """e = y - (ŷ + b) [B, E], its moments and those of y [E + 1]."""
    return _kernels("triton_loss", y_BE, torch.float32).residual(y_BE, decoded_BE, b_E)


def moments(y_BE: Tensor) -> Tensor:
    """Σ y and Σ‖y‖² over the rows [E + 1] in float64, to be added up over the parts of a batch."""
    return _kernels("triton_loss", y_BE, torch.float32).moments(y_BE)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the sums over all rows say (0-dim, float64).

    Returns:
        Σ‖y-ȳ‖², or 0 where rounding alone could leave as much; what an error is divided by, which
        then is the number of rows; of `error` that ratio, an FVU, which then is NaN; and the
        `active` entries a row.
    """
    kernels = _kernels("triton_loss", moments, torch.float64)
    return kernels.explained(moments, error, active, num_rows)


def decide(
    loss: Tensor,
    norm: Tensor,
    counts_3: Tensor,
    num_held: Tensor,
    clip_norm: float | None,
    may_hold: bool,
) -> tuple[Tensor, Tensor]:
    """Whether a step is to change nothing, and what its gradient is multiplied by (0-dim).

    Args:
        loss, norm: a step is skipped where one of them is not finite.
        counts_3: steps taken, steps skipped, and of these the last ones in a row; changed in place.
        num_held: steps that are to be repeated; the same.
        clip_norm: what the norm is to exceed no more; None for any.
        may_hold: whether a step to be skipped is held instead; and so is one after a held one.
    """
    kernels = _kernels("triton_counts", norm, torch.float32)
    return kernels.decide(loss, norm, counts_3, num_held, clip_norm, may_hold)


def count_fired(
    silent_F: Tensor,
    fired_F: Tensor,
    window_tokens: Tensor,
    now_F: Tensor,
    num_tokens: int,
    skip: Tensor,
) -> None:
    """Count a batch in which latent f fired on `now_F[f]` of `num_tokens` tokens, in place.

    Args:
        silent_F: tokens since each latent last fired.
        fired_F: tokens on which it fired, of `window_tokens`.
        skip: whether it is not to be counted.
    """
    kernels = _kernels("triton_counts", silent_F, torch.int64)
    kernels.count_fired(silent_F, fired_F, window_tokens, now_F, num_tokens, skip)


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """‖g‖² of some rows' gradient, with their weights (unit rows) without what lies along them.

    Args:
        rows_R: which rows, int64; None for all. Those of number F are none, with gradient 0.
    """
    if _on_triton(grad_RD) and grad_RD.dtype is torch.float32 and grad_RD.dim() == 2:
        from sae_dist.kernels import triton_update

        return triton_update.gradient_square(grad_RD, rows_R, W_FD)
    return vectorised.gradient_square(grad_RD, rows_R, W_FD)


def updates_in_places(W_FD: Tensor) -> bool:
    """Whether `update_rows` takes rows that are none, and with a first moment some of the rows."""
    return _on_triton(W_FD) and W_FD.dtype is torch.float32


def update_rows(
    rows: AdamRows,
    grad_RD: Tensor,
    rows_R: Tensor | None,
    adam: AdamStep,
    place_F: Tensor | None = None,
) -> None:
    """One step of Adam (Kingma & Ba 2015, as in `torch.optim.Adam`) on some rows, in place.

    Args:
        rows: all rows and their state.
        grad_RD: the gradient of some rows; it may be overwritten.
        rows_R: which rows, each once, int64; None for all. Those of number F are none. With a first
            moment every row is visited, of gradient 0 where there is no other.
        adam: the step's settings.
        place_F: where the gradient of each row stands, as `rows_R` has it, -1 for nowhere.
    """
    if updates_in_places(rows.W_FD):
        from sae_dist.kernels import triton_update

        if len(rows.W_FD) == 1:  # a vector, which is wider than a tile
            rows, grad_RD = _folded(rows), _fold(grad_RD)
        triton_update.update_rows(rows, grad_RD, rows_R, adam, place_F)
    else:
        vectorised.update_rows(rows, grad_RD, rows_R, adam)


def _folded(rows: AdamRows) -> AdamRows:
    W_FD, square_FD = _fold(rows.W_FD), _fold(rows.exp_avg_sq_FD)
    first_FD = None if rows.exp_avg_FD is None else _fold(rows.exp_avg_FD)
    return AdamRows(W_FD=W_FD, exp_avg_sq_FD=square_FD, exp_avg_FD=first_FD)


def _fold(v_1D: Tensor) -> Tensor:
    """One row as several, of which an update asks nothing together."""
    return v_1D.view(-1, gcd(v_1D.numel(), _FOLDED_WIDTH))


def _on_triton(x: Tensor) -> bool:
    return _HAS_TRITON and x.is_cuda


def _kernels(module: str, x: Tensor, *dtypes: torch.dtype) -> ModuleType:
    """Where the kernels are for tensors like x: in a module of Triton's if of one of the dtypes."""
    if not _on_triton(x) or x.dtype not in dtypes:
        return vectorised
    return importlib.import_module(f"sae_dist.kernels.{module}")
