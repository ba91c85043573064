"""Who harvests, and how several processes take the next unit."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from sae_dist.common.errors import UserError
from sae_dist.harvest.assign import by_turns
from sae_dist.harvest.locks import Locks
from sae_dist.store import StoreWriter

_Value = TypeVar("_Value")
_TELL_SECONDS = 1.0


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

    @property
    def go_together(self) -> bool:
        """Whether others go with the one that takes."""
        return self.in_team or (self.in_step and self.world > 1)

    def agree(self, value: _Value) -> _Value:
        """The value of the process that takes, on all that go with it."""
        box = [value]
        if self.go_together:
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


def together(work: Callable[[], None], processes: Processes) -> None:
    """Let the process that takes do `work`, and those that go with it wait for it.

    It tells them every second that it goes on, since a collective would time out on a long wait,
    and why it failed: then all do.
    """
    if not processes.go_together:
        work()
        return
    with ThreadPoolExecutor(1, "work") as thread:
        working = thread.submit(work) if processes.takes else None
        while (failure := processes.agree(_failure(working))) is None:
            pass
    if working is not None:
        working.result()
    elif failure:
        raise UserError(f"the process that this one goes with failed: {failure}")


def _failure(working: Future[None] | None) -> str | None:
    """Why it failed, or "" once it is done; None while it goes on, after a second."""
    if working is None or wait([working], _TELL_SECONDS).not_done:
        return None
    error = working.exception()
    return "" if error is None else f"{type(error).__name__}: {error}"


def lock_of(unit: int) -> str:
    """Name of a unit's lock."""
    return f"{unit:05d}"
