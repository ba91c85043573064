"""One way to every kernel: Triton's on NVIDIA GPUs, vectorised torch everywhere else."""

import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from sae_dist.kernels import vectorised
from sae_dist.kernels.adam import AdamRows, AdamStep
from sae_dist.kernels.pattern import SparsePattern
from sae_dist.kernels.vectorised import group_maxima, round_rows

__all__ = [
    "entries",
    "sddmm",
    "group_maxima",
    "spmm_t",
    "product",
    "round_rows",
    "spmm",
    "update_rows",
]

_HAS_TRITON = importlib.util.find_spec("triton") is not None
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


def update_rows(rows: AdamRows, grad_RD: Tensor, rows_R: Tensor | None, adam: AdamStep) -> None:
    """See `reference.update_rows`."""
    is_matrix = len(rows.W_FD) > 1  # a vector is one row, wider than a tile holds
    if _on_triton(rows.W_FD) and rows.W_FD.dtype is torch.float32 and is_matrix:
        from sae_dist.kernels import triton_update

        triton_update.update_rows(rows, grad_RD, rows_R, adam)
    else:
        vectorised.update_rows(rows, grad_RD, rows_R, adam)


def _on_triton(x: Tensor) -> bool:
    return _HAS_TRITON and x.is_cuda


def _sparse(x: Tensor) -> ModuleType:
    if not _on_triton(x) or x.dtype not in _MULTIPLIED:
        return vectorised
    from sae_dist.kernels import triton_sparse

    return triton_sparse
