"""Which latents may fire: exact TopK and BatchTopK, wherever the latents and rows are.

Only positive pre-activations are ever selected (ReLU after selection, Gao et al. 2024), and ties go
to the first row, then to the first latent: the same selection on every layout.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from sae_dist.coders.collectives import Collectives
from sae_dist.kernels import (
    SparsePattern,
    host,
    kth_largest,
    threshold_candidates,
    topk_candidates,
)

if TYPE_CHECKING:
    from sae_dist.coders.coder import Coder

_GUESSED_SHARE = 0.95  # of a guessed threshold: what lies below is not looked at
_LOWERED = 0.75  # the next guess, of one above which there was too little, and so often
_NUM_GUESSES = 5
_REMEMBERED = 8  # batches, of whose thresholds the least is the guess: one too low costs less
_GUESSED_MOST = 16  # times k a row: more candidates than that cost more than another way
_FAILED = 2**48  # more than there can be candidates


@torch.no_grad()
def top_k(z_BF: Tensor, k: int, collectives: Collectives) -> Tensor:
    """Mask [B, F] of the k largest positive pre-activations of each row, over all latents."""
    own_BK = z_BF.topk(min(k + 1, z_BF.shape[1]), dim=1, sorted=False).values
    kth_B1, num_B1, room_B1 = _kth_of_rows(own_BK, k, collectives)
    mask_BF = (z_BF >= kth_B1) & (z_BF > 0)
    if _may_be(num_B1 > k):
        ties_BF = mask_BF & (z_BF == kth_B1)
        num_before_B1 = collectives.exclusive_sum_latents(ties_BF.sum(1, keepdim=True))
        is_known = host.is_at_hand(num_B1)  # which rows have ties; else all are looked at
        tied_T = (num_B1 > k).flatten().nonzero().flatten() if is_known else slice(None)
        places_TF = num_before_B1[tied_T] + ties_BF[tied_T].cumsum(1, dtype=torch.int32)
        mask_BF[tied_T] &= ~ties_BF[tied_T] | (places_TF <= room_B1[tied_T])
    return mask_BF


@torch.no_grad()
def top_k_entries(code: SparsePattern, z_N: Tensor, k: int, collectives: Collectives) -> Tensor:
    """The same mask [N] of entries, among which are at least those that `top_k` marks."""
    if code.is_padded:
        z_N = z_N.masked_fill(code.latents_N == code.num_latents, -torch.inf)
    kth_B1, num_B1, room_B1 = _kth_of_rows(code.row_lists(z_N, k + 1), k, collectives)
    kth_N = kth_B1.flatten()[code.rows_N]
    kept_N = (z_N >= kth_N) & (z_N > 0)
    if _may_be(num_B1 > k):
        ties_N = kept_N & (z_N == kth_N)
        place_N, ties_B = _places(ties_N, code)
        num_before_B = collectives.exclusive_sum_latents(ties_B)
        kept_N &= ~ties_N | (num_before_B[code.rows_N] + place_N <= room_B1.flatten()[code.rows_N])
    return kept_N


def _may_be(is_so: Tensor) -> bool:
    """Whether it is so anywhere; where the host would have to wait for that, it may be."""
    return not host.is_at_hand(is_so) or bool(is_so.any())


def _kth_of_rows(own_BK: Tensor, k: int, collectives: Collectives) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row, from each slice's k + 1 largest: the k-th largest positive value (0 if there are
    fewer), how many reach it (more than k if there are ties), and the room left for those equal.

    One candidate more than k shows ties that reach beyond a slice's own k.
    """
    own_BK = pad(own_BK, (0, k + 1 - own_BK.shape[1]))
    candidates_BK = collectives.all_gather_latents(own_BK)
    # From below: most often there is but one candidate more than k.
    num_least = candidates_BK.shape[1] - k + 1
    least_BK = candidates_BK.topk(num_least, dim=1, largest=False, sorted=False).values
    kth_B1 = least_BK.amax(1, keepdim=True).clamp_min(0.0)
    num_B1 = ((candidates_BK >= kth_B1) & (candidates_BK > 0)).sum(1, keepdim=True)
    return kth_B1, num_B1, k - (candidates_BK > kth_B1).sum(1, keepdim=True)


@torch.no_grad()
def batch_top_k(z_BF: Tensor, k: float, collectives: Collectives) -> Tensor:
    """Mask [B, F] of the k·B largest positive pre-activations of the global batch of B rows.

    Bussmann et al. 2024; every part of the batch must have equally many rows.
    """
    num_kept = max(1, round(k * len(z_BF) * collectives.num_parts))
    kth, num_greater, num_equal = kth_largest(z_BF, num_kept, collectives.count)
    mask_BF = (z_BF >= kth) & (z_BF > 0)
    if _may_be(num_greater + num_equal > num_kept):
        ties_BF = mask_BF & (z_BF == kth)
        ties_B = ties_BF.sum(1)
        ties_everywhere_B = collectives.sum_latents(ties_B)
        rows_before_B = ties_everywhere_B.cumsum(0) - ties_everywhere_B
        parts_before = collectives.exclusive_sum_rows(ties_everywhere_B.sum())
        num_before_B = parts_before + rows_before_B + collectives.exclusive_sum_latents(ties_B)
        room = num_kept - num_greater
        mask_BF &= ~ties_BF | (num_before_B[:, None] + ties_BF.cumsum(1) <= room)
    return mask_BF


@torch.no_grad()
def batch_top_k_code(coder: "Coder", x_BD: Tensor, k: float) -> tuple[SparsePattern, Tensor]:
    """What `batch_top_k` keeps of the coder's z = x Wᵀ + b, as a pattern and its values [N].

    About what the threshold will be the coder has a hint: the values above a part of it are looked
    at first. It changes the time this takes, never the result.
    """
    collectives = coder.collectives
    num_kept = max(1, round(k * len(x_BD) * collectives.num_parts))
    hint = f"threshold of {_search_of(k)}"
    code, z_N, edge = _batch_candidates(coder, x_BD, k, num_kept, coder.hints.get(hint))
    kth, num_greater, num_equal = edge
    coder.hints[hint] = _remembered(coder.hints.get(hint), kth)
    kept_N = (z_N >= kth) & (z_N > 0)
    if _may_be(num_greater + num_equal > num_kept):
        room = num_kept - num_greater
        kept_N &= (z_N > kth) | _is_first(z_N == kth, code, room, collectives)
    if code.is_padded:
        return code.keep_in(kept_N, z_N, min(num_kept, len(z_N)))
    return code.keep(kept_N, z_N)


def _batch_candidates(
    coder: "Coder", x_BD: Tensor, k: float, num_kept: int, hint_R: Tensor | None
) -> tuple[SparsePattern, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """A pattern that has all of the global batch's `num_kept` largest values in it, its values,
    and what `kth_largest` says of them.

    Either all values above a floor, which is lowered where these are too few, or, where they are
    too many or there is no guess, each row's largest, of which more are taken until no row could
    hold back any. Where the host does not wait to hear whether it did, the pattern's `num_lost`
    says so.
    """
    encoder, collectives = coder.encoder(), coder.collectives
    num_latents = len(encoder.b_F)
    limit = math.ceil(_GUESSED_MOST * k * len(x_BD))
    room = coder.room(f"above a part of {_search_of(k)}")
    for floor in () if hint_R is None else _floors(hint_R):
        floor_F = floor.to(encoder.b_F.dtype).expand_as(encoder.b_F)
        found = threshold_candidates(x_BD, encoder, floor_F, limit, room)
        # One sum tells everyone whether all found some, and enough together.
        num_found = collectives.count(_number_of(found, x_BD))
        if found is not None and found[0].num_lost is not None:
            lost = (num_found < num_kept).long()
            code, z_N = replace(found[0], num_lost=lost), found[1]
            return code, z_N, kth_largest(z_N, num_kept, collectives.count)
        if found is not None and int(num_found) >= num_kept:
            return *found, kth_largest(found[1], num_kept, collectives.count)
        if int(num_found) < 0 or not floor:  # somewhere there were too many; or nowhere more
            break
    num_sought = min(math.ceil(4 * k), num_latents)
    while True:
        code, z_N = topk_candidates(x_BD, encoder, num_sought)
        edge = kth_largest(z_N, num_kept, collectives.count)
        least_B = code.kth_largest(z_N, num_sought)
        holds_back = (least_B >= edge[0]).any() & (num_sought < num_latents)
        if not int(collectives.count(holds_back.long())):
            return code, z_N, edge
        num_sought = min(4 * num_sought, num_latents)


def _remembered(hint_R: Tensor | None, kth: Tensor) -> Tensor:
    """The last thresholds [R]; one of 0, of a batch with too few candidates, says nothing."""
    last_R = kth.expand(_REMEMBERED) if hint_R is None else torch.cat([hint_R[1:], kth[None]])
    return last_R.where(last_R > 0, last_R.max())


def _floors(hint_R: Tensor) -> Iterator[Tensor]:
    """Guesses of what the threshold will exceed, from the last ones, each lower than before."""
    least = hint_R.min()
    return (_GUESSED_SHARE * _LOWERED**n * least for n in range(_NUM_GUESSES))


def _search_of(k: float) -> str:
    """One name for all k near one another, as k may change from step to step; another for 4k."""
    return f"4^{round(math.log(k, 4))}"


def _number_of(found: tuple[SparsePattern, Tensor] | None, x_BD: Tensor) -> Tensor:
    """How many entries were found (0-dim), far below 0 if some were not."""
    if found is None:
        return torch.full((), -_FAILED, device=x_BD.device)
    num_found, num_lost = found[0].num_entries(), found[0].num_lost
    return num_found if num_lost is None else num_found.where(num_lost == 0, -_FAILED)


def _is_first(
    ties_N: Tensor, code: SparsePattern, room: Tensor, collectives: Collectives
) -> Tensor:
    """Which of the entries marked as ties are among the first `room` of all, by row and latent."""
    place_N, ties_B = _places(ties_N, code)
    everywhere_B = collectives.sum_latents(ties_B)
    before_B = collectives.exclusive_sum_rows(
        everywhere_B.sum()
    ) + collectives.exclusive_sum_latents(ties_B)
    before_B = before_B + everywhere_B.cumsum(0) - everywhere_B
    return ties_N & (before_B[code.rows_N] + place_N <= room)


def _places(marked_N: Tensor, code: SparsePattern) -> tuple[Tensor, Tensor]:
    """Each marked entry's place among those of its row, from 1 [N], and their number [B]."""
    num_before = pad(marked_N.cumsum(0), (1, 0))
    at_row_starts = num_before[code.offsets_B]
    return num_before[1:] - at_row_starts[code.rows_N], at_row_starts.diff()
