"""Which units a process harvests, and when all are done.

Those of a job never take the same one: the launcher's store deals them. Jobs know nothing of each
other but the commits, which decide to whom a unit belongs. So each goes on with the next unit as
long as nobody has it, and else, or once another was first, begins anew at a random one: jobs come
to work far apart, and only the first and last few units may be harvested twice. What a dead process
left is just missing: once nothing else is left to take, and no commit has come for long, it is
dealt anew.
"""

import time

import numpy as np
import torch.distributed as dist

from sae_dist.store import StoreWriter

_LOOK_SECONDS = 5.0  # between two listings of the commits while there are units to take
_LISTING_SHARE = 100  # and so many times what a listing takes
_MIN_PATIENCE = 60.0  # seconds without any commit before others' units are dealt anew


class Units:
    """Deals the units of a store to the processes of one job; each holds one of these.

    `done` are the units that are known to be committed.
    """

    def __init__(self, writer: StoreWriter, store: dist.Store) -> None:
        self._writer = writer
        self._store = dist.PrefixStore(f"units of {writer.path}", store)
        self._rng = np.random.default_rng()
        self._num_ready = 0  # units whose tokens are there, from the first on
        self._is_free = np.zeros(0, bool)  # of those, as far as this process knows
        self._turn = 0  # how often all units were dealt
        self._last: int | None = None
        self._slowest, self._taken_at, self._news_at = 0.0, 0.0, time.monotonic()
        self._look_at = 0.0
        self.done: set[int] = set()
        self._look()

    @property
    def num_units(self) -> int | None:
        """How many there are; None while the text goes on."""
        return self._writer.num_units

    @property
    def all_done(self) -> bool:
        """Whether there is nothing left to harvest."""
        return len(self.done) == self.num_units or self._writer.sealed

    @property
    def awaits_text(self) -> bool:
        """Whether there will be units whose tokens are not there yet."""
        return self._num_ready != self.num_units

    def length(self, unit: int) -> int:
        """Sequences of a unit whose tokens are there."""
        settings = self._writer.settings
        if unit + 1 == self.num_units:
            return len(self._writer.layout.sequences_of(unit))
        return settings.shard_sequences

    @property
    def num_sequences_done(self) -> int:
        """Sequences of the units that are done, of which only the very last may have fewer."""
        size, last = self._writer.settings.shard_sequences, (self.num_units or 0) - 1
        missing = size - self.length(last) if last in self.done else 0
        return len(self.done) * size - missing

    def take(self) -> int | None:
        """A unit for this process; None if there is none now."""
        now = time.monotonic()
        if self._taken_at:
            self._slowest = max(self._slowest, now - self._taken_at)
            self._taken_at = 0.0
        self._find_tokens()
        while (unit := self._choose()) is not None:
            self._is_free[unit] = False
            if self._store.add(f"{self._turn}/{unit}", 1) == 1:
                if not self._writer.is_committed(unit):
                    self._last, self._taken_at, self._news_at = unit, time.monotonic(), now
                    return unit
                self.done.add(unit)
        self._look()
        is_silent = now - self._news_at > max(_MIN_PATIENCE, 2 * self._slowest)
        if is_silent and self._num_ready == self.num_units:
            self._deal_anew()
        return None

    def lost(self) -> None:
        """Begin anew elsewhere: another job works where this one does, and committed first."""
        self._last = None
        self._look()

    def _look(self) -> None:
        begun = time.monotonic()
        done = self._writer.committed()
        if len(done) > len(self.done):
            self._news_at = begun
        self.done |= done
        self._is_free[[unit for unit in done if unit < len(self._is_free)]] = False
        ended = time.monotonic()
        self._look_at = ended + max(_LOOK_SECONDS, _LISTING_SHARE * (ended - begun))

    def _find_tokens(self) -> None:
        """Count the units whose tokens have come."""
        while self._num_ready != self.num_units and self._writer.has_tokens(self._num_ready):
            self._num_ready += 1
        new = [unit not in self.done for unit in range(len(self._is_free), self._num_ready)]
        self._is_free = np.append(self._is_free, np.array(new, bool))

    def _choose(self) -> int | None:
        """The unit after the last one if it is free, else any that is."""
        if self._last is not None and self._last + 1 < len(self._is_free):
            if self._is_free[self._last + 1]:
                return self._last + 1
            if time.monotonic() >= self._look_at:
                self._look()
        free = np.flatnonzero(self._is_free)
        return int(self._rng.choice(free)) if len(free) else None

    def _deal_anew(self) -> None:
        self._turn += 1
        self._news_at = time.monotonic()
        self._is_free = np.array([unit not in self.done for unit in range(self._num_ready)], bool)
