"""What the bound of a search needs to know of rows and latents, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_dist.kernels.plain import GROUP
from sae_dist.kernels.triton_product import larger

_TILE_GROUPS = 16


@triton.jit
def _round_rows(
    W_ptr, half_ptr, error_ptr, norm_ptr, width, HAS_COPY: tl.constexpr, TILE_D: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    squares_D = tl.zeros([TILE_D], tl.float32)
    lost_D = tl.zeros([TILE_D], tl.float32)
    for first in range(0, width, TILE_D):
        col_D = first + tl.arange(0, TILE_D)
        here_D, is_inside_D = row * width + col_D, col_D < width
        w_D = tl.load(W_ptr + here_D, mask=is_inside_D, other=0.0)
        squares_D += w_D * w_D
        if HAS_COPY:
            half_D = w_D.to(tl.bfloat16)
            tl.store(half_ptr + here_D, half_D, mask=is_inside_D)
            lost_D += (w_D - half_D.to(tl.float32)) * (w_D - half_D.to(tl.float32))
    tl.store(norm_ptr + row, tl.sqrt(tl.sum(squares_D)))
    if HAS_COPY:
        tl.store(error_ptr + row, tl.sqrt(tl.sum(lost_D)))


def round_rows(W_FD: Tensor, bf16_FD: Tensor | None, error_F: Tensor, norm_F: Tensor) -> None:
    """See `dispatch.round_rows`; W is float32."""
    num_rows, width = W_FD.shape
    if num_rows:
        given = W_FD.contiguous(), bf16_FD, error_F, norm_F, width
        tile = min(triton.next_power_of_2(width), 1024)
        _round_rows[(num_rows,)](*given, HAS_COPY=bf16_FD is not None, TILE_D=tile)


@triton.jit
def _group_errors(
    error_ptr,
    norm_ptr,
    b_ptr,
    own_b_ptr,
    out_ptr,
    num_latents,
    num_groups,
    of_sums,
    eps,
    GROUP: tl.constexpr,
    IS_ROUNDED: tl.constexpr,
    TILE_G: tl.constexpr,
):
    group_G = tl.program_id(0) * TILE_G + tl.arange(0, TILE_G)
    latent_GI = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    is_latent_GI = latent_GI < num_latents
    norm_GI = tl.load(norm_ptr + latent_GI, mask=is_latent_GI, other=0.0)
    W_error_GI = tl.load(error_ptr + latent_GI, mask=is_latent_GI, other=0.0) + of_sums * norm_GI
    b_GI = tl.load(b_ptr + latent_GI, mask=is_latent_GI, other=0.0)
    own_b_GI = tl.load(own_b_ptr + latent_GI, mask=is_latent_GI, other=0.0)
    b_error_GI = eps * (tl.abs(b_GI) + tl.abs(own_b_GI))
    if IS_ROUNDED:
        b_error_GI += tl.abs(b_GI - b_GI.to(tl.bfloat16).to(tl.float32))
    is_group_G = group_G < num_groups
    tl.store(out_ptr + group_G, tl.reduce(W_error_GI, 1, larger), mask=is_group_G)
    tl.store(out_ptr + num_groups + group_G, tl.reduce(norm_GI, 1, larger), mask=is_group_G)
    tl.store(out_ptr + 2 * num_groups + group_G, tl.reduce(b_error_GI, 1, larger), mask=is_group_G)


def group_errors(
    error_f: Tensor, norm_f: Tensor, b_f: Tensor, own_b_f: Tensor, dtype: torch.dtype, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dispatch.group_errors`; everything is float32, and the search in it or in bfloat16."""
    num_latents, eps = len(norm_f), torch.finfo(torch.float32).eps
    out_3g = norm_f.new_empty(3, triton.cdiv(num_latents, GROUP))
    num_groups = out_3g.shape[1]
    given = (v_f.contiguous() for v_f in (error_f, norm_f, b_f, own_b_f))
    sizes = num_latents, num_groups, 2 * width * eps, eps
    constants = {"GROUP": GROUP, "IS_ROUNDED": dtype is torch.bfloat16, "TILE_G": _TILE_GROUPS}
    grid = (triton.cdiv(num_groups, _TILE_GROUPS),)
    _group_errors[grid](*given, out_3g, *sizes, **constants, enable_fp_fusion=True)
    return out_3g[0], out_3g[1], out_3g[2]
