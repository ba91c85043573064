"""Which latents matter on which row: a sparse matrix's pattern, by row and by latent."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sae_dist.kernels import dispatch as kernels
from sae_dist.kernels import host


class LatentRuns(NamedTuple):
    """A pattern's N places latent by latent, as a device finds them: see `dispatch.latent_runs`.

    Attributes:
        order_N: the places latent by latent, rows rising, those of no entry last.
        keys_N: their latents, int32.
        offsets_F: where each latent's begin [F + 1].
        counts_F: how many it has.
        rows_R: room for min(N, F) rows of those that have any: the latents, F where there is none.
        place_F: in which of these each latent stands, -1 if it has no entry, int32.
    """

    order_N: Tensor
    keys_N: Tensor
    offsets_F: Tensor
    counts_F: Tensor
    rows_R: Tensor
    place_F: Tensor


@dataclass(frozen=True)
class SparsePattern:
    """The pattern of N entries of a [B, F] matrix, row by row (CSR without the values).

    Where the host must not wait for their number it has room for more: places of latent F, in a row
    or behind the last, are no entries. Their value is -∞.

    Attributes:
        offsets_B: where each row's entries begin, and the last one's end, int64 [B + 1].
        latents_N: each entry's latent, int64 [N].
        num_latents: F.
        num_each: how many places each row has, if these are equally many.
        num_lost: entries for which there was no room (0-dim); None if all are surely there.
    """

    offsets_B: Tensor
    latents_N: Tensor
    num_latents: int
    num_each: int | None = None
    num_lost: Tensor | None = None

    @staticmethod
    def from_rows(
        rows_N: Tensor, latents_N: Tensor, num_rows: int, num_latents: int
    ) -> "SparsePattern":
        """The pattern of entries whose rows never fall."""
        return SparsePattern(_offsets(_counts(rows_N, num_rows)), latents_N, num_latents)

    @staticmethod
    def from_lists(latents_BK: Tensor, num_latents: int) -> "SparsePattern":
        """The pattern of equally many places a row, some of which may be none."""
        num_rows, num_each = latents_BK.shape
        end = num_rows * num_each + 1
        offsets_B = torch.arange(0, end, max(1, num_each), device=latents_BK.device)
        return SparsePattern(offsets_B, latents_BK.flatten(), num_latents, num_each)

    @property
    def is_padded(self) -> bool:
        """Whether it may have places that are no entries."""
        return self.num_each is not None or self.num_lost is not None

    def num_entries(self) -> Tensor:
        """How many places are entries (0-dim, int64)."""
        if self.num_each is not None:
            return self.runs.offsets_F[-1]
        if self.is_padded:
            return self.offsets_B[-1]
        return self.latents_N.new_full((), len(self.latents_N))

    @property
    def index_N(self) -> Tensor:
        """The latents as an index of [F]; some latent's where there is no entry."""
        return self.latents_N.clamp_max(self.num_latents - 1) if self.is_padded else self.latents_N

    def row_lists(self, values_N: Tensor, num_each: int) -> Tensor:
        """The largest values of each row, in no order [B, num_each]; -∞ where it has fewer."""
        if self.num_each is not None:
            lists = torch.nn.functional.pad(
                values_N.view(-1, self.num_each), (0, num_each), value=-torch.inf
            )
            return lists.topk(num_each, dim=1, sorted=False).values
        if not host.is_at_hand(values_N):
            return self._sorted_lists(values_N, num_each)
        num_B = self.offsets_B.diff()
        num_rows, num_most = len(num_B), max(num_each, int(num_B.max()) if len(num_B) else 0)
        lists = values_N.new_full((num_rows, num_most), -torch.inf)
        place_N = torch.arange(len(values_N), device=values_N.device) - self.offsets_B[self.rows_N]
        lists[self.rows_N, place_N] = values_N
        return lists.topk(num_each, dim=1, sorted=False).values

    def _sorted_lists(self, values_N: Tensor, num_each: int) -> Tensor:
        """The same without a table as wide as the longest row, whose length the host would need."""
        falling_N = values_N.argsort(descending=True)
        order_N = falling_N[self.rows_N[falling_N].argsort(stable=True)]
        place_BK = self.offsets_B[:-1, None] + torch.arange(num_each, device=values_N.device)
        is_there_BK = place_BK < self.offsets_B[1:, None]
        sorted_N = torch.nn.functional.pad(values_N[order_N], (0, 1), value=-torch.inf)
        return sorted_N[place_BK.where(is_there_BK, len(values_N))]

    def kth_largest(self, values_N: Tensor, k: int) -> Tensor:
        """The k-th largest value of each row [B]; -∞ where it has fewer."""
        return self.row_lists(values_N, k).amin(1)

    def keep(self, kept_N: Tensor, values_N: Tensor) -> "tuple[SparsePattern, Tensor]":
        """The pattern of the entries that are marked [n], and their values [n].

        With room for as many as before if this one has it for more than there are.
        """
        if self.num_each is not None:
            latents_N = self.latents_N.where(kept_N, self.num_latents)
            return replace(self, latents_N=latents_N), values_N.where(kept_N, -torch.inf)
        if self.is_padded:
            return self.keep_in(kept_N, values_N, len(kept_N))
        place_n = kept_N.nonzero().flatten()  # once: to index by a mask looks for them each time
        return self.at(place_n), values_N[place_n]

    def keep_in(
        self, kept_N: Tensor, values_N: Tensor, num_places: int
    ) -> "tuple[SparsePattern, Tensor]":
        """The same with so many places, of which no more than that are marked."""
        num_before = torch.nn.functional.pad(kept_N.cumsum(0), (1, 0))
        place_N = num_before[:-1].where(kept_N, num_places)  # a last one is for the others

        def moved(v_N: Tensor, missing: float) -> Tensor:
            return v_N.new_full((num_places + 1,), missing).scatter_(0, place_N, v_N)[:-1]

        latents_n, values_n = moved(self.latents_N, self.num_latents), moved(values_N, -torch.inf)
        lost = torch.zeros_like(num_before[0]) if self.num_lost is None else self.num_lost
        offsets_B = num_before[self.offsets_B]
        return SparsePattern(offsets_B, latents_n, self.num_latents, num_lost=lost), values_n

    def without_room(self, values_N: Tensor) -> "tuple[SparsePattern, Tensor]":
        """Its entries alone and their values; the host waits for their number."""
        if not self.is_padded:
            return self, values_N
        place_n = (self.latents_N < self.num_latents).nonzero().flatten()
        return self.at(place_n), values_N[place_n]

    def at(self, place_n: Tensor) -> "SparsePattern":
        """The pattern of the entries at some places, which rise."""
        rows_n, latents_n = self.rows_N[place_n], self.latents_N[place_n]
        num_rows = len(self.offsets_B) - 1
        return SparsePattern.from_rows(rows_n, latents_n, num_rows, self.num_latents)

    def sum_by_row(self, values_N: Tensor) -> Tensor:
        """The sum of each row's values [B], in a fixed order; places that are none must have 0."""
        return _segment_sums(values_N, self.offsets_B)

    def sum_by_latent(self, values_N: Tensor) -> Tensor:
        """The same of each latent's [F]."""
        order_N, offsets_F = self.by_latent
        return _segment_sums(values_N.gather(0, order_N), offsets_F)

    def split_rows(self, group_N: Tensor, num_groups: int) -> "tuple[SparsePattern, Tensor]":
        """The same entries with a row for each group of each row, and where each was [N].

        First come all rows of group 0, then of 1, …: [num_groups · B, F].
        """
        num_rows = len(self.offsets_B) - 1
        lost = self.num_lost
        if self.is_padded:  # what is none stays behind the last row
            group_N = group_N.where(self.latents_N < self.num_latents, num_groups - 1)
            lost = torch.zeros_like(self.offsets_B[0]) if lost is None else lost
        row_N = group_N * num_rows + self.rows_N
        order_N = row_N.int().argsort(stable=True)
        offsets = _offsets(_counts(row_N, num_groups * num_rows))
        latents_N = self.latents_N[order_N]
        return SparsePattern(offsets, latents_N, self.num_latents, num_lost=lost), order_N

    @cached_property
    def rows_N(self) -> Tensor:
        """Each entry's row, int64 [N]."""
        if self.is_padded and self.num_each is None:  # behind the last row it is the last, too
            place_N = torch.arange(len(self.latents_N), device=self.offsets_B.device)
            rows_N = torch.searchsorted(self.offsets_B[1:], place_N, right=True)
            return rows_N.clamp_max(len(self.offsets_B) - 2)
        counts_B = self.offsets_B.diff()
        rows_B = torch.arange(len(counts_B), device=counts_B.device)
        return rows_B.repeat_interleave(counts_B, output_size=len(self.latents_N))

    @cached_property
    def present_R(self) -> Tensor:
        """The latents that have entries, rising, int64 [R].

        With room for more entries than there are, room for min(N, F): F where there is none.
        """
        if not self.is_padded:
            return (self._counts_F > 0).nonzero().flatten()
        return self.runs.rows_R

    def count_by_latent(self, marked_N: Tensor | None = None) -> Tensor:
        """Entries of each latent, or of those marked ones, int64 [F]."""
        if marked_N is None:
            return self._counts_F
        return _counts(self.latents_N, self.num_latents + 1, marked_N)[:-1]

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The entries latent by latent, rows rising [N], and where each latent's begin [F + 1].

        Sums in this order are the same on every run.
        """
        if self.is_padded:
            return self.runs.order_N, self.runs.offsets_F
        order_N = self.latents_N.int().argsort(stable=True)  # a fraction of int64's time
        return order_N, _offsets(self._counts_F)

    @cached_property
    def runs(self) -> LatentRuns:
        """The places latent by latent."""
        return kernels.latent_runs(self.latents_N, self.num_latents)

    @cached_property
    def _counts_F(self) -> Tensor:
        if self.is_padded:
            return self.runs.counts_F
        return _counts(self.latents_N, self.num_latents)


def join(
    one: tuple[SparsePattern, Tensor], other: tuple[SparsePattern, Tensor]
) -> tuple[SparsePattern, Tensor]:
    """The entries of two patterns of one shape that share none, and their values [N + M]."""
    rows, latents, values = (
        torch.cat(parts)
        for parts in zip(*((c.rows_N, c.latents_N, v) for c, v in (one, other)), strict=True)
    )
    codes, num_latents = (one[0], other[0]), one[0].num_latents
    order = (rows * (num_latents + 1) + latents).argsort()
    each = [code.num_each for code in codes if code.num_each is not None]
    lost = [code.num_lost for code in codes if code.num_lost is not None]
    code = SparsePattern(
        codes[0].offsets_B + codes[1].offsets_B,
        latents[order],
        num_latents,
        num_each=sum(each) if len(each) == 2 else None,
        num_lost=torch.stack(lost).sum() if lost else None,
    )
    return code, values[order]


def _segment_sums(values_N: Tensor, offsets: Tensor) -> Tensor:
    """Sums between offsets, the last up to the end; differentiable."""
    ends = torch.nn.functional.pad(offsets[:-1], (0, 1), value=len(values_N))
    return torch.segment_reduce(values_N, "sum", offsets=ends, initial=0, unsafe=True)


def _counts(index_N: Tensor, size: int, marked_N: Tensor | None = None) -> Tensor:
    """How often each number is there, or at those marked places: bincount would wait for a GPU."""
    ones_N = torch.ones_like(index_N) if marked_N is None else marked_N.long()
    return index_N.new_zeros(size).scatter_add_(0, index_N, ones_N)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
