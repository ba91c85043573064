"""How many steps a rung has taken and skipped, counted where it is trained."""

import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.kernels import dispatch as kernels

_MAX_SKIPPED_IN_A_ROW = 10


class NonFiniteError(UserError):
    """Too many steps in a row gave a loss or gradient that is not finite."""


class Progress:
    """Counts on the rung's device, so that the host need not know how a step went.

    Attributes:
        counts_3: steps that changed the weights, steps that were skipped, and of these the last
            ones in a row, int64.
        num_held: the last steps that are to be taken again (0-dim, int64).
    """

    NAMES = "num_updates", "num_skipped", "skipped_in_a_row"

    def __init__(self, device: torch.device) -> None:
        self.counts_3 = torch.zeros(3, dtype=torch.int64, device=device)
        self.num_held = torch.zeros_like(self.counts_3[0])

    @property
    def num_updates(self) -> Tensor:
        """Steps that changed the weights (0-dim)."""
        return self.counts_3[0]

    def decide(
        self, loss: Tensor, norm: Tensor, clip_norm: float | None, may_hold: bool
    ) -> tuple[Tensor, Tensor]:
        """Whether a step changes nothing, and what its gradient is multiplied by (0-dim); counted.

        It is skipped where loss or norm is not finite; with `may_hold` it is held instead, and so
        are those after it, until all are repeated.
        """
        return kernels.decide(loss, norm, self.counts_3, self.num_held, clip_norm, may_hold)

    def numbers(self) -> dict[str, int]:
        """The counts by name; waits for the device."""
        return dict(zip(self.NAMES, self.counts_3.tolist(), strict=True))

    def set_numbers(self, numbers: dict[str, int]) -> None:
        """Take back what `numbers` gave."""
        told = [numbers[name] for name in self.NAMES]
        self.counts_3.copy_(torch.tensor(told))


def check_skipped(rung: str, step: int, skipped_in_a_row: int) -> None:
    """Say that a step of a rung was skipped, if it is the first in a row.

    Raises:
        NonFiniteError: it is the tenth.
    """
    if skipped_in_a_row == 1:
        log_info(f"rung {rung}: loss or gradient is not finite at step {step}, which is skipped")
    if skipped_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
        raise NonFiniteError(
            f"rung {rung}: loss or gradient was not finite {_MAX_SKIPPED_IN_A_ROW} steps in a "
            "row; lower optim.lr, or look for non-finite activations with sae-dist verify"
        )
