"""Which tokens lie in which chunk and shard: arithmetic, no files."""

import math
from dataclasses import dataclass

import numpy as np

from sae_dist.common.errors import UserError

_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The grid that every array of a store shares.

    Unit u of work is shard u: sequences [u·shard_sequences, (u+1)·shard_sequences) of all arrays.
    A chunk is `chunk_positions` neighbouring positions of `chunk_sequences` neighbouring sequences.
    Chunks are numbered through the whole store: shard by shard, in a shard by their sequences, then
    by their positions. The last shard, and the chunks of the last sequences, may be partial.
    """

    num_sequences: int
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int
    chunk_positions: int

    @property
    def num_shards(self) -> int:
        """Shards of each array, a partial last one included."""
        return math.ceil(self.num_sequences / self.shard_sequences)

    @property
    def num_chunks(self) -> int:
        """Chunks that hold at least one sequence."""
        return math.ceil(self.num_sequences / self.chunk_sequences) * self.chunks_per_sequence

    @property
    def chunks_per_shard(self) -> int:
        """Chunks of a whole shard."""
        return self.shard_sequences // self.chunk_sequences * self.chunks_per_sequence

    @property
    def chunks_per_sequence(self) -> int:
        """Chunks that share the positions of one sequence."""
        return self.sequence_length // self.chunk_positions

    @property
    def chunk_tokens(self) -> int:
        """Positions of a whole chunk, those of all its sequences together."""
        return self.chunk_sequences * self.chunk_positions

    def sequences_of(self, unit: int) -> range:
        """Sequence numbers of one shard."""
        start = unit * self.shard_sequences
        return range(start, min(start + self.shard_sequences, self.num_sequences))

    def chunks_of(self, unit: int) -> range:
        """Chunk numbers of one shard."""
        start = unit * self.chunks_per_shard
        return range(start, min(start + self.chunks_per_shard, self.num_chunks))

    def sequences_of_chunk(self, chunk: int) -> range:
        """Sequence numbers of one chunk."""
        start = chunk // self.chunks_per_sequence * self.chunk_sequences
        return range(start, min(start + self.chunk_sequences, self.num_sequences))

    def positions_of_chunk(self, chunk: int) -> range:
        """Which positions of its sequences one chunk holds."""
        start = chunk % self.chunks_per_sequence * self.chunk_positions
        return range(start, start + self.chunk_positions)

    def token_index(self, chunk: int | np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Places in the store, sequence · S + position, of the tokens at `offset` in `chunk`."""
        sequence, position = np.divmod(offset, self.chunk_positions)
        block, part = np.divmod(chunk, self.chunks_per_sequence)
        sequence = sequence + block * self.chunk_sequences
        return sequence * self.sequence_length + part * self.chunk_positions + position

    def chunks_with(self, sequences: range) -> range:
        """Numbers of the chunks that hold any of these sequences, one at least."""
        first = sequences.start // self.chunk_sequences
        last = (sequences.stop - 1) // self.chunk_sequences
        return range(first * self.chunks_per_sequence, (last + 1) * self.chunks_per_sequence)


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

    A chunk reaches through all sequences of its shard and takes few positions of each, so that it
    holds as many documents as it can: the stream reads whole chunks, and mixes those that it holds.
    Where one position of all sequences is too much, it takes one position of fewer sequences.
    Shards of a known number of sequences are even, so that none is nearly empty, and as many, if
    there are so many sequences, as it takes to set a share of `held_out` aside.

    `bytes_per_position` counts all sites together, so that one grid fits them all. A chunk holds
    at least one position and a shard one sequence, however small the wanted sizes.
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
    chunk_tokens = max(1, int(chunk_mib * _MIB) // bytes_per_position)
    most = min(shard, chunk_tokens)  # sequences of a chunk
    shard = shard // most * most
    if num_sequences:
        shard = math.ceil(num_sequences / math.ceil(num_sequences / shard))
    blocks = math.ceil(shard / most)
    chunk_sequences = math.ceil(shard / blocks)
    return Layout(
        num_sequences=num_sequences or 0,
        sequence_length=sequence_length,
        shard_sequences=blocks * chunk_sequences,
        chunk_sequences=chunk_sequences,
        chunk_positions=_largest_divisor(sequence_length, chunk_tokens // chunk_sequences),
    )


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def held_out_units(num_shards: int, share: float) -> list[int]:
    """Shards kept from training: evenly spaced, at least one when share > 0, never all.

    Raises UserError when share is outside [0, 1) or when the only shard would be taken.
    """
    if not 0 <= share < 1:
        raise UserError(f"found held_out={share:g}; expected 0 <= held_out < 1; change held_out")
    if share == 0:
        return []
    if num_shards < 2:
        raise UserError(
            f"found {num_shards} shard and held_out={share:g}; expected at least 2 shards to set "
            "one aside; lower shard_mib (and chunk_mib), take more tokens, or set held_out=0"
        )
    count = min(max(1, round(num_shards * share)), num_shards - 1)
    return [(2 * i + 1) * num_shards // (2 * count) for i in range(count)]
