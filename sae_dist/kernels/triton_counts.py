"""What a step is decided and counted by, in Triton: a program each, instead of many small ones."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024  # latents that one program counts


@triton.jit
def _decide(
    loss_ptr,
    norm_ptr,
    counts_ptr,
    num_held_ptr,
    skip_ptr,
    scale_ptr,
    clip_norm,
    MAY_HOLD: tl.constexpr,
):
    norm = tl.load(norm_ptr)
    total = tl.load(loss_ptr).to(tl.float64) + norm
    skip = total - total != 0.0  # of what is not finite it is NaN
    num_skipped, in_a_row = tl.load(counts_ptr + 1), tl.load(counts_ptr + 2)
    if MAY_HOLD:
        num_held = tl.load(num_held_ptr)
        skip = skip | (num_held > 0)
        tl.store(num_held_ptr, num_held + skip.to(tl.int64))
    else:
        tl.store(counts_ptr + 1, num_skipped + skip.to(tl.int64))
        in_a_row += 1
    tl.store(counts_ptr, tl.load(counts_ptr) + tl.where(skip, 0, 1))
    tl.store(counts_ptr + 2, tl.where(skip, in_a_row, 0))
    tl.store(skip_ptr, skip)
    tl.store(scale_ptr, tl.minimum(clip_norm / norm, 1.0))


def decide(
    loss: Tensor,
    norm: Tensor,
    counts_3: Tensor,
    num_held: Tensor,
    clip_norm: float | None,
    may_hold: bool,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.decide`; the norm is float32."""
    skip, scale = torch.empty_like(norm, dtype=torch.bool), torch.empty_like(norm)
    most = float("inf") if clip_norm is None else clip_norm
    _decide[(1,)](loss, norm, counts_3, num_held, skip, scale, most, MAY_HOLD=may_hold)
    return skip, scale


@triton.jit(do_not_specialize=["num_tokens"])
def _count_fired(
    silent_ptr,
    fired_ptr,
    window_ptr,
    now_ptr,
    skip_ptr,
    num_tokens,
    num_latents,
    TILE: tl.constexpr,
):
    if tl.load(skip_ptr):
        return
    latent_F = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_latent_F = latent_F < num_latents
    now_F = tl.load(now_ptr + latent_F, mask=is_latent_F, other=0)
    silent_F = tl.load(silent_ptr + latent_F, mask=is_latent_F, other=0) + num_tokens
    tl.store(silent_ptr + latent_F, tl.where(now_F > 0, 0, silent_F), mask=is_latent_F)
    fired_F = tl.load(fired_ptr + latent_F, mask=is_latent_F, other=0)
    tl.store(fired_ptr + latent_F, fired_F + now_F, mask=is_latent_F)
    if tl.program_id(0) == 0:
        tl.store(window_ptr, tl.load(window_ptr) + num_tokens)


def count_fired(
    silent_F: Tensor,
    fired_F: Tensor,
    window_tokens: Tensor,
    now_F: Tensor,
    num_tokens: int,
    skip: Tensor,
) -> None:
    """See `dispatch.count_fired`."""
    given = silent_F, fired_F, window_tokens, now_F.contiguous(), skip, num_tokens, len(silent_F)
    _count_fired[(triton.cdiv(len(silent_F), _TILE),)](*given, TILE=_TILE)
