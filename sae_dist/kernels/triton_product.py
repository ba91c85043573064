"""The encoder's product in bfloat16 with each group's maximum, and what of it reaches a floor."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.kernels.plain import GROUP

_SPAN = 1024  # groups that one program looks through for entries
_TILE = 64  # of them at once, where one may hold an entry
_COLUMNS = 64  # of x and W that a tiling, or two tiles of the interpreter's, adds at once
_INTERPRETED = triton.knobs.runtime.interpret


def _tilings() -> list[triton.Config]:
    """All add along D in equal steps, so that which one is chosen does not change the sums."""
    if _INTERPRETED:
        return [triton.Config({"TILE_B": 16, "TILE_F": 2 * GROUP, "TILE_D": 32, "TOGETHER": 2})]
    return [
        triton.Config(
            {"TILE_B": tile_b, "TILE_F": tile_f, "TILE_D": _COLUMNS, "TOGETHER": 8},
            num_warps=warps,
            num_stages=stages,
        )
        for tile_b, tile_f, warps, stages in [
            (128, 256, 8, 3),
            (128, 256, 8, 4),
            (256, 128, 8, 3),
            (128, 128, 4, 4),
            (64, 128, 4, 4),
        ]
    ]


@triton.jit
def larger(a, b):
    """Of two numbers, or NaN if one is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.autotune(_tilings(), key=["num_latents", "width"])
@triton.jit(do_not_specialize=["num_rows"])
def _product(
    x_ptr,
    W_ptr,
    b_ptr,
    z_ptr,
    maxima_ptr,
    num_rows,
    num_latents,
    width,
    GROUP: tl.constexpr,
    TILE_B: tl.constexpr,
    TILE_F: tl.constexpr,
    TILE_D: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    # Programs that run together share their rows of W: TOGETHER tiles of rows, latent by latent.
    tiles_b, tiles_f = tl.cdiv(num_rows, TILE_B), tl.cdiv(num_latents, TILE_F)
    program = tl.program_id(0)
    tile_b, tile_f = tl.swizzle2d(program // tiles_f, program % tiles_f, tiles_b, tiles_f, TOGETHER)
    row_B = (tile_b * TILE_B + tl.arange(0, TILE_B)).to(tl.int64)
    latent_F = (tile_f * TILE_F + tl.arange(0, TILE_F)).to(tl.int64)
    col_D = tl.arange(0, TILE_D)

    # Beyond the last row and latent others are computed again: no mask, and nothing is stored.
    x_BD = x_ptr + (row_B % num_rows)[:, None] * width + col_D[None, :]
    W_DF = W_ptr + (latent_F % num_latents)[None, :] * width + col_D[:, None]
    sum_BF = tl.zeros([TILE_B, TILE_F], tl.float32)
    for first in range(0, width, TILE_D):
        sum_BF = tl.dot(tl.load(x_BD + first), tl.load(W_DF + first), sum_BF)

    is_row_B, is_latent_F = row_B < num_rows, latent_F < num_latents
    b_F = tl.load(b_ptr + latent_F, mask=is_latent_F, other=0.0)
    z_BF = (sum_BF + b_F[None, :]).to(tl.bfloat16)
    is_inside_BF = is_row_B[:, None] & is_latent_F[None, :]
    tl.store(z_ptr + row_B[:, None] * num_latents + latent_F[None, :], z_BF, mask=is_inside_BF)

    held_BF = tl.where(is_latent_F[None, :], z_BF.to(tl.float32), -float("inf"))
    held_BGI = tl.reshape(held_BF, [TILE_B, TILE_F // GROUP, GROUP])
    maxima_BG = tl.reduce(held_BGI, 2, larger)
    num_groups = tl.cdiv(num_latents, GROUP)
    group_G = tile_f * (TILE_F // GROUP) + tl.arange(0, TILE_F // GROUP)
    is_inside_BG = is_row_B[:, None] & (group_G < num_groups)[None, :]
    tl.store(
        maxima_ptr + row_B[:, None] * num_groups + group_G[None, :], maxima_BG, mask=is_inside_BG
    )


def product(x_bD: Tensor, W_fD: Tensor, b_f: Tensor) -> tuple[Tensor, Tensor]:
    """z = x Wᵀ + b with float32 sums, rounded to bfloat16, and its largest by groups of latents.

    Args:
        x_bD, W_fD: bfloat16.
        b_f: float32.

    Returns:
        z [b, f] in bfloat16, and of the rounded values each group's maximum [b, ⌈f / 32⌉] in
        float32: NaN if any is NaN. The last group may be short.
    """
    num_rows, num_latents = len(x_bD), len(W_fD)
    if missing := -x_bD.shape[1] % _COLUMNS:  # no mask, and 16 bytes at a time
        x_bD, W_fD = pad(x_bD, (0, missing)), pad(W_fD, (0, missing))
    z_bf = x_bD.new_empty(num_rows, num_latents, dtype=torch.bfloat16)
    maxima_bg = b_f.new_empty(num_rows, triton.cdiv(num_latents, GROUP))
    if _INTERPRETED:  # the interpreter would multiply bfloat16's bits as integers
        x_bD, W_fD = x_bD.float(), W_fD.float()
    if z_bf.numel():
        _product[
            lambda tiling: (
                triton.cdiv(num_rows, tiling["TILE_B"])
                * triton.cdiv(num_latents, tiling["TILE_F"]),
            )
        ](
            x_bD.contiguous(),
            W_fD.contiguous(),
            b_f.contiguous(),
            z_bf,
            maxima_bg,
            num_rows,
            num_latents,
            x_bD.shape[1],
            GROUP=GROUP,
            enable_fp_fusion=True,
        )
    return z_bf, maxima_bg


@triton.jit
def _may_hold(maxima_ptr, error_bound_ptr, floor, row, group_G, num_groups):
    """Which groups may hold an entry, and their error_bound; NaN hides other values: such may."""
    is_group_G = group_G < num_groups
    here = row * num_groups + group_G
    error_bound_G = tl.load(error_bound_ptr + here, mask=is_group_G, other=0.0)
    reach_G = tl.load(maxima_ptr + here, mask=is_group_G, other=0.0) + error_bound_G
    return is_group_G & ((reach_G >= floor) | (reach_G != reach_G)), error_bound_G


@triton.jit
def _reaching(
    z_ptr, error_bound_G, may_hold_G, floor, row, group_G, num_latents, GROUP: tl.constexpr
):
    """Which latents of these groups are entries, and the latents, both [G · GROUP]."""
    latent_GI = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    is_read_GI = may_hold_G[:, None] & (latent_GI < num_latents)
    z_GI = tl.load(z_ptr + row * num_latents + latent_GI, mask=is_read_GI, other=float("nan"))
    reaches_GI = z_GI.to(tl.float32) + error_bound_G[:, None] >= floor
    num: tl.constexpr = latent_GI.shape[0] * GROUP
    return tl.reshape(reaches_GI, [num]), tl.reshape(latent_GI, [num])


@triton.jit
def _span(num_groups, SPAN: tl.constexpr):
    """The row that a program looks through, and its first group there."""
    spans = tl.cdiv(num_groups, SPAN)
    return (tl.program_id(0) // spans).to(tl.int64), (tl.program_id(0) % spans) * SPAN


@triton.jit
def _count(
    z_ptr,
    maxima_ptr,
    floor_ptr,
    error_bound_ptr,
    counts_ptr,
    num_latents,
    num_groups,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
):
    row, begin = _span(num_groups, SPAN)
    floor = tl.load(floor_ptr + row)
    group_S = begin + tl.arange(0, SPAN)
    may_hold_S = _may_hold(maxima_ptr, error_bound_ptr, floor, row, group_S, num_groups)[0]
    num = 0
    if tl.max(may_hold_S.to(tl.int32)) > 0:
        for tile in range(begin, tl.minimum(begin + SPAN, num_groups), TILE):
            group_G = tile + tl.arange(0, TILE)
            may_hold_G, error_bound_G = _may_hold(
                maxima_ptr, error_bound_ptr, floor, row, group_G, num_groups
            )
            if tl.max(may_hold_G.to(tl.int32)) > 0:
                reaches = _reaching(
                    z_ptr, error_bound_G, may_hold_G, floor, row, group_G, num_latents, GROUP
                )[0]
                num += tl.sum(reaches.to(tl.int32))
    tl.store(counts_ptr + tl.program_id(0), num)


@triton.jit(do_not_specialize=["num_places"])
def _write(
    z_ptr,
    maxima_ptr,
    floor_ptr,
    error_bound_ptr,
    offsets_ptr,
    rows_ptr,
    latents_ptr,
    num_places,
    num_latents,
    num_groups,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
):
    row, begin = _span(num_groups, SPAN)
    floor = tl.load(floor_ptr + row)
    place = tl.load(offsets_ptr + tl.program_id(0))
    if place < tl.minimum(tl.load(offsets_ptr + tl.program_id(0) + 1), num_places):
        for tile in range(begin, tl.minimum(begin + SPAN, num_groups), TILE):
            group_G = tile + tl.arange(0, TILE)
            may_hold_G, error_bound_G = _may_hold(
                maxima_ptr, error_bound_ptr, floor, row, group_G, num_groups
            )
            if tl.max(may_hold_G.to(tl.int32)) > 0:
                reaches, latent = _reaching(
                    z_ptr, error_bound_G, may_hold_G, floor, row, group_G, num_latents, GROUP
                )
                here = place + tl.cumsum(reaches.to(tl.int32), 0) - 1
                is_inside = reaches & (here < num_places)
                if rows_ptr is not None:
                    tl.store(rows_ptr + here, row, mask=is_inside)
                tl.store(latents_ptr + here, latent.to(tl.int64), mask=is_inside)
                place += tl.sum(reaches.to(tl.int32))


def entries(
    z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor
) -> tuple[Tensor, Tensor]:
    """All (row, latent) with z + error_bound[row, group] >= floor[row], by row, then by latent.

    The maxima are `product`'s: groups that cannot hold an entry are not read. NaN is none. Waits
    for the device, as the number of entries shapes the result.

    Args:
        z_bf: bfloat16.
        maxima_bg, floor_b, error_bound_bg: float32.

    Returns:
        rows and latents, int64 [N].
    """
    given = [t.contiguous() for t in (z_bf, maxima_bg, floor_b, error_bound_bg)]
    offsets = _offsets(*given)
    rows_N, latents_N = offsets.new_empty(2, int(offsets[-1]))
    _write_at(offsets, rows_N, latents_N, *given)
    return rows_N, latents_N


def entries_in(
    latents_N: Tensor,
    z_bf: Tensor,
    maxima_bg: Tensor,
    floor_b: Tensor,
    error_bound_bg: Tensor,
    num_before: Tensor,
) -> Tensor:
    """The same without waiting: latents are written into the N places that there are for them.

    Args:
        latents_N: int64, of which the first places are taken by earlier rows' entries.
        num_before: how many (1-dim, int64).

    Returns:
        where each row's entries begin, and the last one's end, int64 [b + 1]; beyond N there is no
        room for them.
    """
    given = [t.contiguous() for t in (z_bf, maxima_bg, floor_b, error_bound_bg)]
    offsets = num_before + _offsets(*given)
    _write_at(offsets, None, latents_N, *given)
    return offsets[:: triton.cdiv(maxima_bg.shape[1], _SPAN)]


def _offsets(z_bf: Tensor, maxima_bg: Tensor, floor_b: Tensor, error_bound_bg: Tensor) -> Tensor:
    """Where the entries of each row's spans of groups begin, and the last one's end."""
    num_rows, num_groups = maxima_bg.shape
    spans = num_rows * triton.cdiv(num_groups, _SPAN)
    counts = torch.zeros(spans, dtype=torch.int32, device=z_bf.device)
    if spans:
        given = z_bf, maxima_bg, floor_b, error_bound_bg, counts
        _count[(spans,)](*given, z_bf.shape[1], num_groups, **_options())
    return pad(counts.cumsum(0), (1, 0))


def _write_at(
    offsets: Tensor,
    rows_N: Tensor | None,
    latents_N: Tensor,
    z_bf: Tensor,
    maxima_bg: Tensor,
    floor_b: Tensor,
    error_bound_bg: Tensor,
) -> None:
    if len(offsets) > 1 and len(latents_N):
        given = z_bf, maxima_bg, floor_b, error_bound_bg, offsets, rows_N, latents_N
        sizes = len(latents_N), z_bf.shape[1], maxima_bg.shape[1]
        _write[(len(offsets) - 1,)](*given, *sizes, **_options())


def _options() -> dict[str, Any]:
    return {"GROUP": GROUP, "SPAN": _SPAN, "TILE": _TILE, "enable_fp_fusion": True}
