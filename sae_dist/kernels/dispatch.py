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
    """See `reference.product`."""
    if _on_triton(x_bD) and W_fD.dtype is torch.bfloat16:
        from sae_dist.kernels import triton_product

        return triton_product.product(x_bD, W_fD, b_f)
    return vectorised.product(x_bD, W_fD, b_f)


def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    """See `reference.round_rows`."""
    _kernels("triton_bound", W_FD, torch.float32).round_rows(W_FD, bf16_FD, error_F, norm_F)


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.group_errors`."""
    return _kernels("triton_bound", norm_f, torch.float32).group_errors(
        error_f, norm_f, b_f, own_b_f, dtype, width
    )


def entries(
    z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor
) -> tuple[Tensor, Tensor]:
    """See `reference.entries`."""
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
    """See `reference.entries_in`."""
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
    """See `reference.topk`."""
    from sae_dist.kernels import triton_search

    return triton_search.topk(x_bD, W_FD, b_F, z_bF, maxima_bg, bound, k, is_exact=is_exact)


def sddmm(u_BD: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `reference.sddmm`."""
    return _kernels("triton_sparse", u_BD, *_MULTIPLIED).sddmm(u_BD, W_FD, code)


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `reference.spmm`."""
    return _kernels("triton_sparse", W_FD, *_MULTIPLIED).spmm(values_N, W_FD, code)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """See `reference.spmm_t`."""
    return _kernels("triton_sparse", u_BD, *_MULTIPLIED).spmm_t(
        values_N, u_BD, code, present_only=present_only
    )


def latent_runs(latents_N: Tensor, num_latents: int) -> LatentRuns:
    """See `reference.latent_runs`; of patterns that have room for more than there is."""
    from sae_dist.kernels import triton_sparse

    return triton_sparse.latent_runs(latents_N, num_latents)


def row_gradient(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, unit_FD: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.row_gradient`; of such patterns."""
    from sae_dist.kernels import triton_sparse

    return triton_sparse.row_gradient(values_N, u_BD, code, unit_FD)


def centre_gradient(grad_b_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `reference.centre_gradient`."""
    kernels = _kernels("triton_sparse", W_FD, *_MULTIPLIED) if code.is_padded else vectorised
    return kernels.centre_gradient(grad_b_F, W_FD, code)


def residual(y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.residual`."""
    return _kernels("triton_loss", y_BE, torch.float32).residual(y_BE, decoded_BE, b_E)


def moments(y_BE: Tensor) -> Tensor:
    """See `reference.moments`."""
    return _kernels("triton_loss", y_BE, torch.float32).moments(y_BE)


def explained(
    moments: Tensor, error: Tensor, active: Tensor, num_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.explained`."""
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
    """See `reference.decide`."""
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
    """See `reference.count_fired`."""
    kernels = _kernels("triton_counts", silent_F, torch.int64)
    kernels.count_fired(silent_F, fired_F, window_tokens, now_F, num_tokens, skip)


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """See `reference.gradient_square`."""
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
    """See `reference.update_rows`."""
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
