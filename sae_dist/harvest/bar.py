"""How far a harvest is, in tokens: a bar that moves with every forward pass."""

from collections import Counter

from sae_dist.common.log import progress
from sae_dist.harvest.units import Units
from sae_dist.store import StoreWriter


class TokenBar:
    """Shows the tokens of all units that are committed, and of this process' passes beyond them."""

    def __init__(self, writer: StoreWriter, units: Units) -> None:
        settings = writer.settings
        self._units, self._writer, self._length = units, writer, settings.sequence_length
        self._passed: Counter[int] = Counter()  # sequences of each unit that is not yet committed
        self._bar = progress(
            total=(settings.num_sequences or 0) * self._length,
            initial=self._num_tokens(),
            desc="harvest",
            unit="tok",
            unit_scale=True,
        )
        self.close = self._bar.close

    def add(self, unit: int, num_sequences: int) -> None:
        """So many sequences of a unit passed the language model."""
        self._passed[unit] += num_sequences
        self.show()

    def show(self) -> None:
        """Show what is known to be committed by now, by any process."""
        for unit in self._units.done & self._passed.keys():
            del self._passed[unit]
        if self._units.num_units is not None:  # the text may be shorter than was asked for
            self._bar.total = self._writer.layout.num_sequences * self._length
        self._bar.update(self._num_tokens() - self._bar.n)

    def _num_tokens(self) -> int:
        num_sequences = self._passed.total() + self._units.num_sequences_done
        return num_sequences * self._length
