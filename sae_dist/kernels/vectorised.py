"""The kernels in vectorised torch, for CPUs and wherever Triton is not."""

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from sae_dist.kernels.code import Code

GROUP = 32

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    """z = x Wᵀ + b [b, f], and the maximum of each group of 32 latents [b, ⌈f/32⌉].

    bfloat16 products come back as float32, which holds what was rounded to bfloat16.
    """
    z_bf = torch.addmm(b_f.to(W_fD.dtype), x_bD, W_fD.T)
    if z_bf.dtype is torch.bfloat16:
        z_bf = z_bf.float()
    return z_bf, _grouped(z_bf).amax(2)


def group_maxima(v_f: Tensor) -> Tensor:
    """The maximum of each group of 32 latents [⌈f/32⌉]."""
    return _grouped(v_f[None]).amax(2)[0]


def entries(z_bf: Tensor, maxima_bg: Tensor, floor_bg: Tensor) -> tuple[Tensor, Tensor]:
    """All entries with z ≥ the floor of their row and group: rows and latents [N].

    Rows rise, and within a row latents. NaN never qualifies.
    """
    row_n, group_n = (maxima_bg >= floor_bg).nonzero(as_tuple=True)
    z_ngi = _grouped(z_bf)[row_n, group_n]
    at_N, place_N = (z_ngi >= floor_bg[row_n, group_n, None]).nonzero(as_tuple=True)
    return row_n[at_N], group_n[at_N] * GROUP + place_N


def _grouped(z_bf: Tensor) -> Tensor:
    """[b, groups, 32]; what the last group lacks is NaN-free and never largest."""
    missing = -z_bf.shape[1] % GROUP
    if missing:
        z_bf = pad(z_bf, (0, missing), value=-torch.inf)
    return z_bf.unflatten(1, (-1, GROUP))


def entry_dots(u_BD: Tensor, W_FD: Tensor, code: Code) -> Tensor:
    """For each entry (b, f) the product u_b · W_f [N], without gathering rows of W."""
    zeros_N = u_BD.new_zeros(len(code.latents_N))
    shape = (len(u_BD), len(W_FD))
    pattern = torch.sparse_csr_tensor(
        code.offsets_B, code.latents_N, zeros_N, shape, check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, u_BD, W_FD.T).values()


def row_sums(values_N: Tensor, W_FD: Tensor, code: Code) -> Tensor:
    """For each row the sum of its entries' value · W_f [B, D]."""
    return _bags(values_N, W_FD, code.latents_N, code.offsets_B)


def latent_sums(values_N: Tensor, u_BD: Tensor, code: Code) -> Tensor:
    """For each latent the sum of its entries' value · u_b [F, D], in a fixed order."""
    order_N, offsets_F = code.by_latent
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
