"""Which latents matter on which row: a sparse matrix's pattern, by row and by latent."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sae_dist.kernels import host


@dataclass(frozen=True)
class SparsePattern:
    """The pattern of N entries of a [B, F] matrix, row by row (CSR without the values).

    Attributes:
        offsets_B: where each row's entries begin, and the last one's end, int64 [B + 1].
        latents_N: each entry's latent, int64 [N].
        num_latents: F.
    """

    offsets_B: Tensor
    latents_N: Tensor
    num_latents: int

    @staticmethod
    def from_rows(
        rows_N: Tensor, latents_N: Tensor, num_rows: int, num_latents: int
    ) -> "SparsePattern":
        """The pattern of entries whose rows never fall."""
        return SparsePattern(_offsets(_counts(rows_N, num_rows)), latents_N, num_latents)

    def row_lists(self, values_N: Tensor, num_each: int) -> Tensor:
        """The largest values of each row, in no order [B, num_each]; -∞ where it has fewer."""
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
        """The pattern of the entries that are marked [n], and their values [n]."""
        place_n = kept_N.nonzero().flatten()  # once: to index by a mask looks for them each time
        return self.at(place_n), values_N[place_n]

    def at(self, place_n: Tensor) -> "SparsePattern":
        """The pattern of the entries at some places, which rise."""
        rows_n, latents_n = self.rows_N[place_n], self.latents_N[place_n]
        num_rows = len(self.offsets_B) - 1
        return SparsePattern.from_rows(rows_n, latents_n, num_rows, self.num_latents)

    @cached_property
    def rows_N(self) -> Tensor:
        """Each entry's row, int64 [N]."""
        counts_B = self.offsets_B.diff()
        rows_B = torch.arange(len(counts_B), device=counts_B.device)
        return rows_B.repeat_interleave(counts_B, output_size=len(self.latents_N))

    @cached_property
    def present_R(self) -> Tensor:
        """The latents that have entries, rising, int64 [R]."""
        return self.count_by_latent().nonzero().flatten()

    def count_by_latent(self, marked_N: Tensor | None = None) -> Tensor:
        """Entries of each latent, or of those marked ones, int64 [F]."""
        return _counts(self.latents_N, self.num_latents, marked_N)

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The entries latent by latent, rows rising [N], and where each latent's begin [F + 1].

        Sums in this order are the same on every run.
        """
        order_N = self.latents_N.int().argsort(stable=True)  # a fraction of int64's time
        return order_N, _offsets(self.count_by_latent())


def join(
    one: tuple[SparsePattern, Tensor], other: tuple[SparsePattern, Tensor]
) -> tuple[SparsePattern, Tensor]:
    """The entries of two patterns of one shape that share none, and their values [N + M]."""
    rows, latents, values = (
        torch.cat(parts)
        for parts in zip(*((c.rows_N, c.latents_N, v) for c, v in (one, other)), strict=True)
    )
    num_latents = one[0].num_latents
    order = (rows * num_latents + latents).argsort()
    num_rows = len(one[0].offsets_B) - 1
    code = SparsePattern.from_rows(rows[order], latents[order], num_rows, num_latents)
    return code, values[order]


def _counts(index_N: Tensor, size: int, marked_N: Tensor | None = None) -> Tensor:
    """How often each number is there, or at those marked places: bincount would wait for a GPU."""
    ones_N = torch.ones_like(index_N) if marked_N is None else marked_N.long()
    return index_N.new_zeros(size).scatter_add_(0, index_N, ones_N)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
