"""How far a harvest is, in tokens: a bar that moves with every forward pass."""

from collections import Counter
from types import TracebackType
from typing import Self

from sae_dist.common.log import progress
from sae_dist.store import StoreWriter


class TokenBar:
    """Shows the tokens of all units that are committed, and of this process' passes beyond them.

    A context manager. `lengths` are the sequences of every unit.
    """

    def __init__(self, writer: StoreWriter, lengths: list[int]) -> None:
        self._writer = writer
        self._positions = writer.layout.sequence_length
        self._lengths = lengths
        self._missing = writer.missing()
        self._passed: Counter[int] = Counter()  # sequences of each unit that is not yet committed
        total, done = self._positions * sum(lengths), self._positions * self._num_sequences()
        self._bar = progress(total=total, initial=done, desc="harvest", unit="tok", unit_scale=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def add(self, unit: int, num_sequences: int) -> None:
        """So many sequences of a unit passed the language model."""
        self._passed[unit] += num_sequences
        self._show()

    def look(self) -> None:
        """See what is committed by now, by any process."""
        self._missing = self._writer.missing()
        self._show()

    def _num_sequences(self) -> int:
        done = sum(self._lengths) - sum(self._lengths[unit] for unit in self._missing)
        return done + sum(self._passed[unit] for unit in self._missing)

    def _show(self) -> None:
        self._bar.update(self._positions * self._num_sequences() - self._bar.n)
