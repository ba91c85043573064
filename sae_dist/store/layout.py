"""Which sequences lie in which chunk and shard: arithmetic, no files."""

import math
from dataclasses import dataclass

from sae_dist.common.errors import UserError

_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The grid that every array of a store shares.

    Unit u of work is shard u: sequences [u·shard_sequences, (u+1)·shard_sequences) of all arrays.
    Chunks are numbered through the whole store; the last shard and the last chunk may be partial.
    """

    num_sequences: int
    sequence_length: int
    shard_sequences: int
    chunk_sequences: int

    @property
    def num_shards(self) -> int:
        """Shards of each array, a partial last one included."""
        return math.ceil(self.num_sequences / self.shard_sequences)

    @property
    def num_chunks(self) -> int:
        """Chunks that hold at least one sequence."""
        return math.ceil(self.num_sequences / self.chunk_sequences)

    @property
    def chunks_per_shard(self) -> int:
        """Chunks of a whole shard."""
        return self.shard_sequences // self.chunk_sequences

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
        start = chunk * self.chunk_sequences
        return range(start, min(start + self.chunk_sequences, self.num_sequences))


def choose_layout(
    *,
    num_sequences: int,
    sequence_length: int,
    bytes_per_sequence: int,
    chunk_mib: float,
    shard_mib: float,
) -> Layout:
    """The layout whose chunks and shards come closest to the wanted sizes without passing them.

    `bytes_per_sequence` counts all sites together, so that one grid fits them all. A chunk holds
    at least one sequence and a shard at least one chunk, however small the wanted sizes.
    Raises UserError when the sizes are not positive or a shard is wanted smaller than a chunk.
    """
    if not 0 < chunk_mib <= shard_mib:
        raise UserError(
            f"found chunk_mib={chunk_mib:g} and shard_mib={shard_mib:g}; expected "
            "0 < chunk_mib <= shard_mib; change one of them"
        )
    chunk = max(1, int(chunk_mib * _MIB) // bytes_per_sequence)
    shard = chunk * max(1, int(shard_mib * _MIB) // (chunk * bytes_per_sequence))
    return Layout(
        num_sequences=num_sequences,
        sequence_length=sequence_length,
        shard_sequences=shard,
        chunk_sequences=chunk,
    )


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
