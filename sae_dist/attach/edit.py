"""A change of some latents' activations, for one call or for all within a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from sae_dist.common.errors import UserError

Positions = int | slice | Sequence[int] | Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Edit:
    """Latents of a site that are given a value, or are given more; see `Attached.steer`.

    As an argument of a call it holds for that call, as a context manager for all inside.

    Attributes:
        amount: what is added to the activations, or with `replaces` put in their place.
        positions: where, as one indexes a tensor [S]; None everywhere.
        active: the edits that hold now, among which it is while its block lasts.
    """

    site: str
    latents: tuple[int, ...]
    amount: float
    replaces: bool
    positions: Positions
    active: "list[Edit]"

    def __enter__(self) -> Self:
        self.active.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.active.remove(self)

    def edited(
        self, acts_BL: Tensor, latents_L: list[int], position_B: Tensor, num_positions: int
    ) -> Tensor:
        """Some latents' activations [B, L] as they become.

        Args:
            acts_BL: of B tokens.
            latents_L: whose, its own among them.
            position_B: each token's place among `num_positions`.

        Raises:
            UserError: positions that there are not.
        """
        is_wanted_S = torch.zeros(num_positions, dtype=torch.bool, device=acts_BL.device)
        try:
            is_wanted_S[slice(None) if self.positions is None else self.positions] = True
        except IndexError as error:
            raise UserError(
                f"found positions={self.positions} for {num_positions} tokens; expected places "
                "among them, of which the first is 0; correct positions"
            ) from error
        is_own_L = torch.tensor([one in self.latents for one in latents_L], device=acts_BL.device)
        new_BL = acts_BL * (not self.replaces) + self.amount
        return torch.where(is_wanted_S[position_B, None] & is_own_L, new_BL, acts_BL)
