"""Who harvests, and how several processes take the next unit."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from sae_dist.harvest.assign import by_turns
from sae_dist.harvest.locks import Locks
from sae_dist.store import StoreWriter

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """One of the processes that harvest, `rank` of the `world` that this job started.

    Each takes units on its own. With `in_step` (ZeRO-3) all take their units together and run
    equally many forward passes. A team (`join_team`) holds one language model and takes a unit
    together: its processes count as one, and `leads` is true for the one among them that writes.
    """

    rank: int
    world: int
    device: torch.device
    in_step: bool = False
    in_team: bool = False
    leads: bool = True

    @property
    def takes(self) -> bool:
        """Whether this one takes locks, for itself or for all that go with it."""
        return self.leads and (self.rank == 0 or not self.in_step)

    @property
    def place(self) -> int:
        """Which of the units that were taken together is this one's."""
        return self.rank if self.in_step else 0

    def agree(self, value: _Value) -> _Value:
        """The value of the process that takes, on all that go with it."""
        box = [value]
        if self.in_team or (self.in_step and self.world > 1):
            dist.broadcast_object_list(box, src=0)
        return box[0]


def next_units(writer: StoreWriter, locks: Locks, processes: Processes) -> list[int] | None:
    """Units that nobody works on, locked for those that go together, one each at most.

    An empty list: others work on all that are left. None: none is left.
    """
    taken: list[int] | None = None
    if processes.takes and (missing := writer.missing()):
        locks.keep({lock_of(unit) for unit in missing})
        taken = []
        wanted = processes.world if processes.in_step else 1
        for unit in by_turns(missing, processes.rank, processes.world):
            if len(taken) == wanted:
                break
            if locks.take(lock_of(unit)) and not writer.committed(unit):
                taken.append(unit)
    return processes.agree(taken)


def lock_of(unit: int) -> str:
    """Name of a unit's lock."""
    return f"{unit:05d}"
