"""How far a harvest is, in tokens: a bar that moves with every forward pass."""

from collections import Counter
from types import TracebackType
from typing import Self

from sae_dist.common.log import progress
from sae_dist.harvest.units import Units
from sae_dist.store import StoreWriter


class TokenBar:
    """Shows the tokens of all units that are committed, and of this process' passes beyond them.

    A context manager.
    """

    def __init__(self, writer: StoreWriter, units: Units) -> None:
        self._units, self._writer, self._settings = units, writer, writer.settings
        self._passed: Counter[int] = Counter()  # sequences of each unit that is not yet committed
        self._bar = progress(
            total=(self._settings.num_sequences or 0) * self._settings.sequence_length,
            initial=self._num_tokens(),
            desc="harvest",
            unit="tok",
            unit_scale=True,
        )

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
        self.show()

    def show(self) -> None:
        """Show what is known to be committed by now, by any process."""
        for unit in self._units.done & self._passed.keys():
            del self._passed[unit]
        if self._units.num_units is not None:  # the text may be shorter than was asked for
            self._bar.total = self._writer.layout.num_sequences * self._settings.sequence_length
        self._bar.update(self._num_tokens() - self._bar.n)

    def _num_tokens(self) -> int:
        units, sequences = self._units, self._passed.total()
        sequences += len(units.done) * self._settings.shard_sequences
        if units.num_units is not None and units.num_units - 1 in units.done:
            sequences += units.length(units.num_units - 1) - self._settings.shard_sequences
        return sequences * self._settings.sequence_length
