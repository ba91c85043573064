"""What is harvested in one go: pure arithmetic."""

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


def round_of(taken: dict[int, int], batch_sequences: int, place: int) -> Round:
    """The round of one process. Unit u's batches are the same whoever harvests it.

    Args:
        taken: what the processes that go together harvest now, one each, with its sequences.
        batch_sequences: sequences of one forward pass.
        place: this process among those that go together; beyond the units, it keeps nothing.
    """
    num_batches = max(-(-length // batch_sequences) for length in taken.values())
    unit = list(taken)[place] if place < len(taken) else None
    length = 0 if unit is None else taken[unit]
    starts = range(0, num_batches * batch_sequences, batch_sequences)
    return Round(
        unit, tuple(range(min(s, length), min(s + batch_sequences, length)) for s in starts)
    )
