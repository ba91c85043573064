"""Which tokens lie in which unit and chunk: arithmetic, no files."""

import math
from dataclasses import dataclass

from sae_dist.common.errors import UserError

_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The grid of a store.

    Unit u is the sequences [u · shard_sequences, (u + 1) · shard_sequences), and one file of every
    array. A training unit is rows, trainable tokens alone, in chunks of `chunk_rows`; a held-out
    one is sequences, in chunks of `chunk_sequences`. The last chunk of a unit may be partial.
    """

    num_sequences: int
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int
    chunk_rows: int

    @property
    def num_units(self) -> int:
        """Units, a partial last one included."""
        return math.ceil(self.num_sequences / self.shard_sequences)

    @property
    def unit_rows(self) -> int:
        """Places for rows in a training unit: whole chunks that could hold all of its tokens."""
        tokens = self.shard_sequences * self.sequence_length
        return math.ceil(tokens / self.chunk_rows) * self.chunk_rows

    def sequences_of(self, unit: int) -> range:
        """Sequence numbers of one unit."""
        start = unit * self.shard_sequences
        return range(start, min(start + self.shard_sequences, self.num_sequences))


def choose_layout(
    *,
    num_sequences: int | None,
    sequence_length: int,
    bytes_per_position: int,
    chunk_mib: float,
    shard_mib: float,
    held_out: float = 0.0,
) -> Layout:
    """The layout whose chunks and shards come closest to the wanted sizes without passing them.

    Units of a known number of sequences are even, so that none is nearly empty, and as many, if
    there are so many sequences, as it takes to set a share of `held_out` aside.

    `bytes_per_position` counts all sites together, so that one grid fits them all. A chunk holds
    at least one row (or one sequence) and a unit one sequence, however small the wanted sizes.
    Raises UserError when the sizes are not positive or a shard is wanted smaller than a chunk.
    """
    if not 0 < chunk_mib <= shard_mib:
        raise UserError(
            f"found chunk_mib={chunk_mib:g} and shard_mib={shard_mib:g}; expected "
            "0 < chunk_mib <= shard_mib; change one of them"
        )
    shard = max(1, int(shard_mib * _MIB) // (sequence_length * bytes_per_position))
    if num_sequences and 0 < held_out < 1:
        shard = min(shard, math.ceil(num_sequences * held_out))
    if num_sequences:
        shard = _evenly(num_sequences, shard)
    rows = max(1, int(chunk_mib * _MIB) // bytes_per_position)
    chunk_sequences = _evenly(shard, max(1, rows // sequence_length))
    shard = math.ceil(shard / chunk_sequences) * chunk_sequences
    return Layout(
        num_sequences=num_sequences or 0,
        sequence_length=sequence_length,
        shard_sequences=shard,
        chunk_sequences=chunk_sequences,
        chunk_rows=_evenly(shard * sequence_length, rows),
    )


def _evenly(total: int, largest: int) -> int:
    """The size of parts as equal as can be, and none larger than `largest`."""
    return math.ceil(total / math.ceil(total / largest))


def is_held_out(unit: int, share: float) -> bool:
    """Whether a unit is kept from training: number 1, and evenly spaced ones after it.

    This depends on nothing else, since a text may end before the tokens that were asked for. Of two
    units or more one at least is held out when `share` > 0, and one at least never is.
    """
    return unit > 0 and _num_held_out(unit + 1, share) > _num_held_out(unit, share)


def _num_held_out(num_units: int, share: float) -> int:
    """How many of the first `num_units` are held out."""
    return math.ceil(round((num_units - 1) * share, 9))


def check_held_out(share: float) -> None:
    """Raise UserError for a share outside [0, 1)."""
    if not 0 <= share < 1:
        raise UserError(f"found held_out={share:g}; expected 0 <= held_out < 1; change held_out")
