"""The processes that harvest together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sae_dist.common.errors import UserError

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """One of the processes that harvest, `rank` of the `world` that this job started.

    Each takes units on its own. With `in_step` (ZeRO-3) all take their units together and run
    equally many forward passes. A team (`join_team`) holds one language model and takes a unit
    together: its processes count as one, and `leads` is true for the one among them that writes.
    `store` is the launcher's, by which those of a job deal the units.
    """

    rank: int
    world: int
    device: torch.device
    in_step: bool = False
    in_team: bool = False
    leads: bool = True
    store: dist.Store = field(default_factory=dist.HashStore, compare=False)

    @property
    def takes(self) -> bool:
        """Whether this one takes units, for itself or for all that go with it."""
        return self.leads and (self.rank == 0 or not self.in_step)

    @property
    def place(self) -> int:
        """Which of the units that were taken together is this one's."""
        return self.rank if self.in_step else 0

    @property
    def go_together(self) -> bool:
        """Whether others go with the one that takes."""
        return self.in_team or (self.in_step and self.world > 1)

    def decide(self, work: Callable[[], _Value]) -> _Value:
        """What `work` gives the process that takes, on all that go with it; or why it failed."""
        if not self.go_together:
            return work()
        box: list[Any] = [None, ""]
        error = None
        if self.takes:
            try:
                box[0] = work()
            except Exception as raised:
                error, box[1] = raised, f"{type(raised).__name__}: {raised}"
        dist.broadcast_object_list(box, src=0)
        if error is not None:
            raise error
        if box[1]:
            raise UserError(f"the process that this one goes with failed: {box[1]}")
        return box[0]  # type: ignore[no-any-return]
