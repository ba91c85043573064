"""One way to every kernel: Triton's on NVIDIA GPUs, vectorised torch everywhere else."""

import importlib.util
from math import gcd
from types import ModuleType

import torch
from torch import Tensor

from sae_dist.kernels import vectorised
from sae_dist.kernels.adam import AdamRows, AdamStep
from sae_dist.kernels.bound import Bound
from sae_dist.kernels.pattern import SparsePattern
from sae_dist.kernels.vectorised import group_maxima, round_rows

__all__ = [
    "entries",
    "entries_in",
    "gradient_square",
    "group_maxima",
    "is_fused",
    "product",
    "round_rows",
    "sddmm",
    "spmm",
    "spmm_t",
    "topk",
    "update_rows",
    "updates_in_places",
    "weighted_sum",
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
    return _sparse(u_BD).sddmm(u_BD, W_FD, code)


def spmm(values_N: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `reference.spmm`."""
    return _sparse(W_FD).spmm(values_N, W_FD, code)


def spmm_t(
    values_N: Tensor, u_BD: Tensor, code: SparsePattern, *, present_only: bool = False
) -> Tensor:
    """See `reference.spmm_t`."""
    return _sparse(u_BD).spmm_t(values_N, u_BD, code, present_only=present_only)


def weighted_sum(values_F: Tensor, W_FD: Tensor, code: SparsePattern) -> Tensor:
    """See `reference.weighted_sum`."""
    return (_sparse(W_FD) if code.is_padded else vectorised).weighted_sum(values_F, W_FD, code)


def gradient_square(grad_RD: Tensor, rows_R: Tensor | None, W_FD: Tensor | None) -> Tensor:
    """See `reference.gradient_square`."""
    if _on_triton(grad_RD) and grad_RD.dtype is torch.float32 and grad_RD.dim() == 2:
        from sae_dist.kernels import triton_update

        return triton_update.gradient_square(grad_RD, rows_R, W_FD)
    return vectorised.gradient_square(grad_RD, rows_R, W_FD)


def updates_in_places(W_FD: Tensor) -> bool:
    """Whether `update_rows` takes rows that are none, and with a first moment some of the rows."""
    return _on_triton(W_FD) and W_FD.dtype is torch.float32


def update_rows(rows: AdamRows, grad_RD: Tensor, rows_R: Tensor | None, adam: AdamStep) -> None:
    """See `reference.update_rows`."""
    if updates_in_places(rows.W_FD):
        from sae_dist.kernels import triton_update

        if len(rows.W_FD) == 1:  # a vector, which is wider than a tile
            rows, grad_RD = _folded(rows), _fold(grad_RD)
        triton_update.update_rows(rows, grad_RD, rows_R, adam)
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


def _sparse(x: Tensor) -> ModuleType:
    if not _on_triton(x) or x.dtype not in _MULTIPLIED:
        return vectorised
    from sae_dist.kernels import triton_sparse

    return triton_sparse
