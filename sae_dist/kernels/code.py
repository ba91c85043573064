"""Which latents matter on which row: a sparse matrix's pattern, by row and by latent."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Code:
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
    def from_rows(rows_N: Tensor, latents_N: Tensor, num_rows: int, num_latents: int) -> "Code":
        """The pattern of entries whose rows never fall."""
        counts_B = torch.bincount(rows_N, minlength=num_rows)
        return Code(_offsets(counts_B), latents_N, num_latents)

    @staticmethod
    def from_row_lists(latents_BK: Tensor, num_latents: int) -> "Code":
        """The pattern whose every row has K entries."""
        num_rows, num_each = latents_BK.shape
        offsets_B = torch.arange(num_rows + 1, device=latents_BK.device) * num_each
        return Code(offsets_B, latents_BK.flatten(), num_latents)

    @cached_property
    def rows_N(self) -> Tensor:
        """Each entry's row, int64 [N]."""
        counts_B = self.offsets_B.diff()
        rows_B = torch.arange(len(counts_B), device=counts_B.device)
        return rows_B.repeat_interleave(counts_B, output_size=len(self.latents_N))

    def count_by_latent(self) -> Tensor:
        """Entries of each latent, int64 [F]."""
        return torch.bincount(self.latents_N, minlength=self.num_latents)

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The entries latent by latent, rows rising [N], and where each latent's begin [F + 1].

        Sums in this order are the same on every run.
        """
        order_N = self.latents_N.argsort(stable=True)
        return order_N, _offsets(self.count_by_latent())


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
