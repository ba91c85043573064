"""The k largest entries of each row, exactly: a program a row, which no host waits for."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_dist.kernels.bound import Bound
from sae_dist.kernels.plain import GROUP

_TILE_GROUPS = 16  # that are looked through together
_TILE_ENTRIES = 8  # whose rows of W are on their way together
_LEAST_ROOM = 1024  # entries of a row that are ranked together


@triton.jit
def _kth(keys, k):
    """The largest number that k of the keys reach: 0 if fewer are of positive floats."""
    t = 0
    for place in range(31):
        with_bit = t | (1 << (30 - place))
        t = tl.where(tl.sum((keys >= with_bit).to(tl.int32)) >= k, with_bit, t)
    return t


@triton.jit
def _keys(values):
    """Bits of positive floats, which are ordered as they are; 0 of all others and of NaN."""
    return tl.where(values > 0.0, values.to(tl.int32, bitcast=True), 0)


@triton.jit
def _bound(x_norm, x_error, W_error_ptr, W_norm_ptr, b_error_ptr, group_G, is_group_G):
    W_error_G = tl.load(W_error_ptr + group_G, mask=is_group_G, other=0.0)
    W_norm_G = tl.load(W_norm_ptr + group_G, mask=is_group_G, other=0.0)
    b_error_G = tl.load(b_error_ptr + group_G, mask=is_group_G, other=0.0)
    return x_norm * W_error_G + b_error_G + x_error * W_norm_G


@triton.jit
def _lower_keys(
    maxima_ptr,
    W_error_ptr,
    W_norm_ptr,
    b_error_ptr,
    x_norm,
    x_error,
    rounding,
    group_G,
    num_groups,
):
    """Keys of what the largest entry of each group reaches at least."""
    is_group_G = group_G < num_groups
    bound_G = _bound(x_norm, x_error, W_error_ptr, W_norm_ptr, b_error_ptr, group_G, is_group_G)
    largest_G = tl.load(maxima_ptr + group_G, mask=is_group_G, other=-float("inf"))
    return _keys(largest_G - bound_G - rounding * tl.abs(largest_G))


@triton.jit(do_not_specialize=["k"])
def _groups(
    maxima_ptr,
    W_error_ptr,
    W_norm_ptr,
    b_error_ptr,
    x_norm_ptr,
    x_error_ptr,
    floor_ptr,
    groups_ptr,
    num_listed_ptr,
    rounding,
    k,
    num_groups,
    TILE: tl.constexpr,
):
    # A floor that k entries surely reach, and which groups may hold an entry that does.
    row = tl.program_id(0).to(tl.int64)
    x_error = tl.load(x_error_ptr + row)
    x_norm = tl.load(x_norm_ptr + row) + x_error
    maxima_ptr += row * num_groups
    groups_ptr += row * num_groups
    t = 0
    for place in range(31):
        with_bit = t | (1 << (30 - place))
        num = 0
        for first in range(0, num_groups, TILE):
            keys_G = _lower_keys(
                maxima_ptr,
                W_error_ptr,
                W_norm_ptr,
                b_error_ptr,
                x_norm,
                x_error,
                rounding,
                first + tl.arange(0, TILE),
                num_groups,
            )
            num += tl.sum((keys_G >= with_bit).to(tl.int32))
        t = tl.where(num >= k, with_bit, t)
    floor = tl.cast(t, tl.float32, bitcast=True)
    tl.store(floor_ptr + row, floor)

    num_listed = 0
    for first in range(0, num_groups, TILE):
        group_G = first + tl.arange(0, TILE)
        is_group_G = group_G < num_groups
        bound_G = _bound(x_norm, x_error, W_error_ptr, W_norm_ptr, b_error_ptr, group_G, is_group_G)
        bound_G += rounding * tl.abs(floor - bound_G)
        reach_G = tl.load(maxima_ptr + group_G, mask=is_group_G, other=0.0) + bound_G
        may_hold_G = is_group_G & ((reach_G >= floor) | (reach_G != reach_G))  # NaN may hide some
        nth_G = num_listed + tl.cumsum(may_hold_G.to(tl.int32), 0) - 1
        tl.store(groups_ptr + nth_G, group_G, mask=may_hold_G)
        num_listed += tl.sum(may_hold_G.to(tl.int32))
    tl.store(num_listed_ptr + row, num_listed)


@triton.jit
def _evaluate(
    x_ptr,
    W_ptr,
    b_ptr,
    latents_ptr,
    exact_ptr,
    todo_ptr,
    is_todo_C,
    place_C,
    width,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
):
    """Write x · w + b of the entries at the places that are marked."""
    tl.store(todo_ptr + tl.cumsum(is_todo_C.to(tl.int32), 0) - 1, place_C, mask=is_todo_C)
    tl.debug_barrier()
    num_todo = tl.sum(is_todo_C.to(tl.int32))
    for first in range(0, num_todo, TILE_N):
        nth_N = first + tl.arange(0, TILE_N)
        is_entry_N = nth_N < num_todo
        place_N = tl.load(todo_ptr + nth_N, mask=is_entry_N, other=0)
        latent_N = tl.load(latents_ptr + place_N, mask=is_entry_N, other=0)
        W_N = W_ptr + latent_N.to(tl.int64) * width
        sum_ND = tl.zeros([TILE_N, TILE_D], tl.float32)
        for first_col in range(0, width, TILE_D):
            col_D = first_col + tl.arange(0, TILE_D)
            x_D = tl.load(x_ptr + col_D, mask=col_D < width, other=0.0)
            is_inside_ND = is_entry_N[:, None] & (col_D < width)[None, :]
            W_ND = tl.load(W_N[:, None] + col_D[None, :], mask=is_inside_ND, other=0.0)
            sum_ND += x_D[None, :] * W_ND
        b_N = tl.load(b_ptr + latent_N, mask=is_entry_N, other=0.0)
        tl.store(exact_ptr + place_N, tl.sum(sum_ND, axis=1) + b_N, mask=is_entry_N)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["k"])
def _largest(
    x_ptr,
    W_ptr,
    b_ptr,
    z_ptr,
    W_error_ptr,
    W_norm_ptr,
    b_error_ptr,
    x_norm_ptr,
    x_error_ptr,
    floor_ptr,
    groups_ptr,
    num_listed_ptr,
    held_latents_ptr,
    held_todo_ptr,
    held_approx_ptr,
    held_upper_ptr,
    held_exact_ptr,
    values_ptr,
    latents_ptr,
    rounding,
    k,
    num_latents,
    num_groups,
    width,
    IS_EXACT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE_G: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_D: tl.constexpr,
    ROOM: tl.constexpr,
    TILE_K: tl.constexpr,
):
    # Entries that may be among the k largest are held, latents rising, until there is no more room
    # or the row has no more; the k largest of these stay, with a floor that has risen to the least.
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * width
    z_ptr += row * num_latents
    groups_ptr += row * num_groups
    held_latents_ptr += row * ROOM
    held_todo_ptr += row * ROOM
    held_approx_ptr += row * ROOM
    held_upper_ptr += row * ROOM
    held_exact_ptr += row * ROOM
    x_error = tl.load(x_error_ptr + row)
    x_norm = tl.load(x_norm_ptr + row) + x_error
    floor, num_listed = tl.load(floor_ptr + row), tl.load(num_listed_ptr + row)
    place_C = tl.arange(0, ROOM)
    listed, num_held, num_known = 0, 0, 0
    while listed < num_listed:
        while (listed < num_listed) & (num_held <= ROOM - TILE_G * GROUP):
            is_listed_G = listed + tl.arange(0, TILE_G) < num_listed
            group_G = tl.load(groups_ptr + listed + tl.arange(0, TILE_G), mask=is_listed_G, other=0)
            bound_G = _bound(
                x_norm, x_error, W_error_ptr, W_norm_ptr, b_error_ptr, group_G, is_listed_G
            )
            latent_GI = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
            is_read_GI = is_listed_G[:, None] & (latent_GI < num_latents)
            z_GI = tl.load(z_ptr + latent_GI, mask=is_read_GI, other=float("nan")).to(tl.float32)
            reach_GI = z_GI + (bound_G + rounding * tl.abs(floor - bound_G))[:, None]
            upper_GI = z_GI + (bound_G[:, None] + rounding * tl.abs(z_GI))
            num: tl.constexpr = TILE_G * GROUP
            reaches = tl.reshape(reach_GI >= floor, [num])
            nth = num_held + tl.cumsum(reaches.to(tl.int32), 0) - 1
            tl.store(held_latents_ptr + nth, tl.reshape(latent_GI, [num]), mask=reaches)
            tl.store(held_approx_ptr + nth, tl.reshape(z_GI, [num]), mask=reaches)
            tl.store(held_upper_ptr + nth, tl.reshape(upper_GI, [num]), mask=reaches)
            num_held += tl.sum(reaches.to(tl.int32))
            listed += TILE_G
        tl.debug_barrier()

        # First the k that rank first in the search; then what can reach the least of these.
        is_held_C = place_C < num_held
        is_new_C = is_held_C & (place_C >= num_known)
        tl.store(held_exact_ptr + place_C, -float("inf"), mask=is_new_C)
        approx_C = tl.load(held_approx_ptr + place_C, mask=is_held_C, other=-float("inf"))
        is_first_C = approx_C >= _kth(_keys(approx_C), k).to(tl.float32, bitcast=True)
        tl.debug_barrier()
        _evaluate(
            x_ptr,
            W_ptr,
            b_ptr,
            held_latents_ptr,
            held_exact_ptr,
            held_todo_ptr,
            is_new_C & is_first_C,
            place_C,
            width,
            TILE_N,
            TILE_D,
        )
        exact_C = tl.load(held_exact_ptr + place_C, mask=is_held_C, other=-float("inf"))
        least = _kth(_keys(exact_C), k).to(tl.float32, bitcast=True)
        if IS_EXACT:
            upper_C = tl.load(held_upper_ptr + place_C, mask=is_held_C, other=-float("inf"))
            can_C = is_new_C & ~is_first_C & (upper_C >= least)
            tl.debug_barrier()
            _evaluate(
                x_ptr,
                W_ptr,
                b_ptr,
                held_latents_ptr,
                held_exact_ptr,
                held_todo_ptr,
                can_C,
                place_C,
                width,
                TILE_N,
                TILE_D,
            )
            exact_C = tl.load(held_exact_ptr + place_C, mask=is_held_C, other=-float("inf"))
            least = _kth(_keys(exact_C), k).to(tl.float32, bitcast=True)

        is_greater_C = exact_C > least
        is_tie_C = (exact_C == least) & (exact_C > 0.0)
        room = k - tl.sum(is_greater_C.to(tl.int32))
        stays_C = is_greater_C | (is_tie_C & (tl.cumsum(is_tie_C.to(tl.int32), 0) <= room))
        nth_C = tl.cumsum(stays_C.to(tl.int32), 0) - 1
        latent_C = tl.load(held_latents_ptr + place_C, mask=is_held_C, other=0)
        tl.debug_barrier()
        tl.store(held_latents_ptr + nth_C, latent_C, mask=stays_C)
        tl.store(held_approx_ptr + nth_C, exact_C, mask=stays_C)
        tl.store(held_exact_ptr + nth_C, exact_C, mask=stays_C)
        num_held = tl.sum(stays_C.to(tl.int32))
        num_known = num_held
        floor = tl.maximum(floor, least)
        tl.debug_barrier()

    place_K = tl.arange(0, TILE_K)
    is_held_K, is_out_K = place_K < num_held, place_K < k
    value_K = tl.load(held_exact_ptr + place_K, mask=is_held_K, other=-float("inf"))
    latent_K = tl.load(held_latents_ptr + place_K, mask=is_held_K, other=num_latents)
    tl.store(values_ptr + row * k + place_K, value_K, mask=is_out_K)
    tl.store(latents_ptr + row * k + place_K, latent_K.to(tl.int64), mask=is_out_K)


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
    """Of each row the k largest positive entries of z = x Wᵀ + b, the first latents among equals.

    Args:
        x_bD, W_FD, b_F: float32.
        z_bF, maxima_bg: what `product` makes of them in bfloat16.
        bound: how far that can be from z.
        is_exact: whether the bound is kept; else only what ranks first in the search is looked at.

    Returns:
        values, float32, and latents, int64 [b, k]: latents rising, then -∞ and F where there are
        fewer.
    """
    (num_rows, width), (num_latents, num_groups) = x_bD.shape, (len(W_FD), maxima_bg.shape[1])
    values_bk = x_bD.new_empty(num_rows, k)
    latents_bk = torch.empty(num_rows, k, dtype=torch.int64, device=x_bD.device)
    if not num_rows:
        return values_bk, latents_bk
    room = max(_LEAST_ROOM, triton.next_power_of_2(4 * k))
    of_groups = bound.W_error_g, bound.W_norm_g, bound.b_error_g
    of_rows = bound.x_norm_b.contiguous(), bound.x_error_b.contiguous()
    floor_b = x_bD.new_empty(num_rows)
    groups_bg = torch.empty(num_rows, num_groups, dtype=torch.int32, device=x_bD.device)
    listed_b = torch.empty(num_rows, dtype=torch.int32, device=x_bD.device)
    held_2bC = torch.empty(2, num_rows, room, dtype=torch.int32, device=x_bD.device)
    held_3bC = x_bD.new_empty(3, num_rows, room)
    tile = min(triton.next_power_of_2(num_groups), 4096)
    _groups[(num_rows,)](
        maxima_bg,
        *of_groups,
        *of_rows,
        floor_b,
        groups_bg,
        listed_b,
        bound.rounding,
        k,
        num_groups,
        TILE=tile,
        num_warps=max(1, min(tile // 512, 8)),
        enable_fp_fusion=True,
    )
    _largest[(num_rows,)](
        x_bD.contiguous(),
        W_FD.contiguous(),
        b_F.contiguous(),
        z_bF,
        *of_groups,
        *of_rows,
        floor_b,
        groups_bg,
        listed_b,
        *held_2bC,
        *held_3bC,
        values_bk,
        latents_bk,
        bound.rounding,
        k,
        num_latents,
        num_groups,
        width,
        IS_EXACT=is_exact,
        GROUP=GROUP,
        TILE_G=_TILE_GROUPS,
        TILE_N=_TILE_ENTRIES,
        TILE_D=min(triton.next_power_of_2(width), 256),
        ROOM=room,
        TILE_K=triton.next_power_of_2(k),
        enable_fp_fusion=True,
    )
    return values_bk, latents_bk
