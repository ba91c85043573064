"""The seam through which a coder reaches what it does not hold itself."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Collectives(Protocol):
    """Where the other latents and the other rows of the global batch are.

    A coder may hold a slice of the latents (an axis called latent), and see a part of the batch's
    rows (an axis called data). It knows neither ranks nor groups, only these few sums and joins.
    The batch has `num_parts` parts, each of equally many rows, and the latents `num_slices` slices.
    """

    @property
    def num_parts(self) -> int: ...

    @property
    def num_slices(self) -> int: ...

    def to_latents(self, x: Tensor) -> Tensor:
        """Identity into every slice of the latents; its gradient is summed over the slices."""

    def sum_latents(self, y: Tensor) -> Tensor:
        """Sum over the slices of the latents; its gradient is passed on as it is."""

    def start_sum_latents(self, y: Tensor) -> Callable[[], Tensor]:
        """As `sum_latents`, but only begun: call what this gives, once, where the sum is needed."""

    def sum_rows(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum each over the parts of the batch, in one message; its gradient stays with each part.

        So a loss built from such sums is the loss of the global batch on every part, and adding
        the parameters' gradients over the parts gives the gradient of that loss.
        """

    def count(self, counts: Tensor) -> Tensor:
        """Sum over both axes, without gradient."""

    def all_min(self, v: Tensor) -> Tensor:
        """Minimum over both axes, without gradient."""

    def all_gather_latents(self, v_BK: Tensor) -> Tensor:
        """The slices' columns side by side, without gradient."""

    def exclusive_sum_latents(self, v: Tensor) -> Tensor:
        """Sum over the slices that come before this one, without gradient."""

    def exclusive_sum_rows(self, v: Tensor) -> Tensor:
        """Sum over the parts of the batch that come before this one, without gradient."""


class SingleProcess:
    """All latents and all rows are here."""

    num_parts = num_slices = 1

    def to_latents(self, x: Tensor) -> Tensor:
        return x

    def sum_latents(self, y: Tensor) -> Tensor:
        return y

    def start_sum_latents(self, y: Tensor) -> Callable[[], Tensor]:
        return lambda: y

    def sum_rows(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return sums

    def count(self, counts: Tensor) -> Tensor:
        return counts

    def all_min(self, v: Tensor) -> Tensor:
        return v

    def all_gather_latents(self, v_BK: Tensor) -> Tensor:
        return v_BK

    def exclusive_sum_latents(self, v: Tensor) -> Tensor:
        return v.new_zeros(v.shape)

    def exclusive_sum_rows(self, v: Tensor) -> Tensor:
        return v.new_zeros(v.shape)
