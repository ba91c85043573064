"""Who harvests what: pure arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Round:
    """What one process does in one round: a unit (None: nothing to keep) and its forward passes.

    `batches` are ranges of the unit's sequences, counted from its first. Every process has as many
    in a round as every other, empty ones where it has fewer sequences, so that engines which
    gather weights together (ZeRO-3) run in step.
    """

    unit: int | None
    batches: tuple[range, ...]


def rounds(
    missing: list[int], lengths: list[int], batch_sequences: int, rank: int, world: int
) -> Iterator[Round]:
    """The rounds of one process.

    Unit u's batches are the same whoever harvests it, and in whatever world.

    Args:
        missing: units not yet committed, the same list on every process.
        lengths: sequences of every unit of the store.
        batch_sequences: sequences of one forward pass.
        rank, world: this process among all; it is dealt `missing[rank::world]`.
    """
    for first in range(0, len(missing), world):
        units = missing[first : first + world]
        num_batches = max(-(-lengths[unit] // batch_sequences) for unit in units)
        unit = units[rank] if rank < len(units) else None
        length = 0 if unit is None else lengths[unit]
        starts = range(0, num_batches * batch_sequences, batch_sequences)
        batches = (range(min(s, length), min(s + batch_sequences, length)) for s in starts)
        yield Round(unit, tuple(batches))
