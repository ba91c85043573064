"""The latents of some sequences: only what fires is kept."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """What fires in N sequences of S positions, entry by entry: A of them, token after token.

    Attributes:
        sequences_A, positions_A, latents_A: where each entry is, int64.
        values_A: how strongly it fires, in units of raw activations; after a call with `grad=True`
            and a pass backward `values_A.grad` is the gradient.
        shape: N, S and F, the number of latents.
    """

    sequences_A: Tensor
    positions_A: Tensor
    latents_A: Tensor
    values_A: Tensor
    shape: tuple[int, int, int]

    def at(self, position: int, sequence: int = 0) -> tuple[Tensor, Tensor]:
        """The latents of one token and their values, strongest first; a position may count from
        the end.
        """
        position = range(self.shape[1])[position]
        is_here_A = (self.sequences_A == sequence) & (self.positions_A == position)
        values, order = self.values_A[is_here_A].sort(descending=True)
        return self.latents_A[is_here_A][order], values

    def of(self, latent: int | Tensor) -> Tensor:
        """One latent's activations [N, S], 0 where it does not fire."""
        is_it_A = self.latents_A == latent
        place = self.sequences_A[is_it_A], self.positions_A[is_it_A]
        return self.values_A.new_zeros(self.shape[:2]).index_put(place, self.values_A[is_it_A])

    def dense(self, of_entries_A: Tensor | None = None) -> Tensor:
        """All activations [N, S, F], or other numbers of the same entries: their gradients, say."""
        values_A = self.values_A if of_entries_A is None else of_entries_A
        place = self.sequences_A, self.positions_A, self.latents_A
        return values_A.new_zeros(self.shape).index_put(place, values_A)

    def totals(self, of_entries_A: Tensor | None = None) -> Tensor:
        """The sum of each latent's activations over all tokens [F], or of other numbers."""
        values_A = self.values_A if of_entries_A is None else of_entries_A
        return values_A.new_zeros(self.shape[2]).index_add(0, self.latents_A, values_A)
