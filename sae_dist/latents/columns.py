"""What is kept of latents' own activations: counts, histograms and examples.

Where activations have a sign, all goes by their size; `values` alone keep it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.latents.config import WatchConfig
from sae_dist.latents.parts import Entries

BINS = 40
Columns = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Where a latent is strongest in each sequence in which it fires, by latent, sequences rising.

    `offsets` int64 [n + 1], `entries_G` which of the entries these are, and their `sizes_G`.
    """

    offsets: Tensor
    entries_G: Tensor
    sizes_G: Tensor


def count(entries: Entries) -> Columns:
    """`fired`, `max`, `sum` and `histogram` (`folder.COLUMNS`)."""
    counts_n, latents_M, sizes_M = entries.counts_n, entries.latents_M, entries.acts_M.abs()
    max_n = torch.segment_reduce(sizes_M, "max", lengths=counts_n, initial=0.0)
    bins_M = (sizes_M / max_n[latents_M] * BINS).long().clamp_max_(BINS - 1)
    return {
        "fired": counts_n,
        "max": max_n,
        "sum": torch.segment_reduce(sizes_M.double(), "sum", lengths=counts_n, initial=0.0),
        "histogram": tally(latents_M * BINS + bins_M, len(counts_n) * BINS).view(-1, BINS),
    }


def tally(numbers_M: Tensor, size: int) -> Tensor:
    """How often each number from 0 to before `size` is there, int64 [size]."""
    ones_M = torch.ones_like(numbers_M)
    return numbers_M.new_zeros(size).scatter_add_(0, numbers_M, ones_M)


def find_peaks(entries: Entries, length: int) -> Peaks:
    """One a sequence of `length` tokens: the first of the strongest."""
    sizes_M, latents_M = entries.acts_M.abs(), entries.latents_M
    sequences_M = entries.tokens_M // length
    begins_M = torch.ones_like(sequences_M, dtype=torch.bool)
    begins_M[1:] = (sequences_M.diff() != 0) | (latents_M.diff() != 0)
    begins_G = begins_M.nonzero().flatten()
    lengths_G = torch.cat([begins_G, begins_G.new_tensor([len(sizes_M)])]).diff()
    sizes_G = torch.segment_reduce(sizes_M, "max", lengths=lengths_G, initial=0.0)
    groups_M = begins_M.long().cumsum(0) - 1
    strongest_m = (sizes_M == sizes_G[groups_M]).nonzero().flatten()
    groups_m = groups_M[strongest_m]
    is_first_m = torch.ones_like(groups_m, dtype=torch.bool)
    is_first_m[1:] = groups_m.diff() != 0
    num_n = tally(latents_M[begins_G], len(entries.counts_n))
    offsets = torch.nn.functional.pad(num_n.cumsum(0), (1, 0))
    return Peaks(offsets, strongest_m[is_first_m], sizes_G)


def choose(num_n: Tensor, config: WatchConfig) -> tuple[Tensor, Tensor]:
    """Which peaks of each latent are kept, of so many, counted from the strongest.

    Those that are the strongest, and of the others, in equal parts by strength, some each, evenly
    spaced.

    Returns:
        their places int64 [n, X], -1 where there are fewer, and their groups int8 [n, X].
    """
    place_X = torch.arange(config.strongest, device=num_n.device)
    places, groups = [place_X.expand(len(num_n), -1)], [torch.zeros_like(place_X)]
    num_below_n1 = (num_n - config.strongest).clamp_min(0)[:, None]
    step_1P = torch.arange(config.per_quantile, device=num_n.device)[None]
    for quantile in range(config.quantiles):
        first_n1 = num_below_n1 * quantile // config.quantiles
        size_n1 = num_below_n1 * (quantile + 1) // config.quantiles - first_n1
        taken_n1 = size_n1.clamp_max(config.per_quantile)
        middle_nP = (2 * step_1P + 1) * size_n1 // (2 * taken_n1).clamp_min(1)
        place_nP = config.strongest + first_n1 + middle_nP
        places.append(place_nP.where(step_1P < taken_n1, -1))
        groups.append(torch.full_like(step_1P[0], quantile + 1))
    place_nX = torch.cat(places, 1)
    place_nX = place_nX.where(place_nX < num_n[:, None], -1)
    return place_nX, torch.cat(groups).to(torch.int8).expand_as(place_nX)


def examples(entries: Entries, length: int, config: WatchConfig) -> Columns:
    """`sequences`, `examples`, `groups`, `starts` and `values` (`folder.COLUMNS`).

    Three quarters of a window stand before its peak, but where the sequence begins or ends.
    """
    peaks, window = find_peaks(entries, length), min(config.window, length)
    num_n = peaks.offsets.diff()
    place_nX, group_nX = choose(num_n, config)
    missing_nX = place_nX < 0
    ranked_G = _rank(peaks)
    at_nX = (peaks.offsets[:-1, None] + place_nX).masked_fill_(missing_nX, 0)
    if len(ranked_G):
        entry_nX = peaks.entries_G[ranked_G[at_nX]]
        tokens_nX = entries.tokens_M[entry_nX]
    else:
        entry_nX = tokens_nX = torch.zeros_like(place_nX)
    position_nX = tokens_nX % length
    start_nX = (position_nX - 3 * window // 4).clamp(0, length - window)
    start_nX += tokens_nX - position_nX
    values_nXw = _window_values(entries, entry_nX, start_nX, window)
    return {
        "sequences": num_n,
        "examples": tokens_nX.masked_fill(missing_nX, -1),
        "groups": group_nX,
        "starts": start_nX.masked_fill(missing_nX, -1),
        "values": values_nXw.masked_fill_(missing_nX[..., None], 0.0),
    }


def _rank(peaks: Peaks) -> Tensor:
    """Each latent's peaks from the strongest on, of equals the first one first [G]."""
    num_n = peaks.offsets.diff()
    latents_G = torch.arange(len(num_n), device=num_n.device).repeat_interleave(num_n)
    falling_G = 0x7FFFFFFF - peaks.sizes_G.view(torch.int32).long()  # floats ≥ 0 rise as their bits
    return (latents_G << 31 | falling_G).argsort(stable=True)


def _window_values(entries: Entries, entry_nX: Tensor, start_nX: Tensor, window: int) -> Tensor:
    """The activations on the `window` tokens from `start_nX` on, [n, X, window].

    A window's other entries stand beside its peak's, at most `window` away on either side.
    """
    num_entries, latents_M = len(entries.tokens_M), entries.latents_M
    values_nXw = entries.acts_M.new_zeros(
        *start_nX.shape, window + 1
    )  # the last one is thrown away
    if not num_entries:
        return values_nXw[..., :-1]
    latent_nX = latents_M[entry_nX]
    for step in range(-window, window):
        at_nX = (entry_nX + step).clamp(0, num_entries - 1)
        place_nX = entries.tokens_M[at_nX] - start_nX
        is_in_nX = (latents_M[at_nX] == latent_nX) & (place_nX >= 0) & (place_nX < window)
        place_nX = place_nX.where(is_in_nX, window)
        values_nXw.scatter_(2, place_nX[..., None], entries.acts_M[at_nX][..., None])
    return values_nXw[..., :-1]
