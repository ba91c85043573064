"""The rows of one lane, bucket by bucket, the next bucket being read while one is given out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.store import Store
from sae_dist.stream.order import Segment


class Bucket:
    """The positions of one segment's chunks at every site, being read by a pool's threads.

    Chunk number i of the segment is read into `buffers[site][place + i]`, where buffers are
    [chunks, chunk_sequences, chunk_positions, d] (storage dtype); those places are the bucket's
    until it is used up.
    """

    def __init__(
        self,
        store: Store,
        buffers: dict[str, np.ndarray],
        place: int,
        chunks: np.ndarray,
        segment: Segment,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._store, self._buffers, self._place = store, buffers, place
        self._chunks, self._segment = chunks, segment
        self._positions = store.layout.chunk_tokens
        self._trainable = np.zeros((len(chunks), self._positions), bool)
        self._reads = [pool.submit(self._read, number) for number in range(len(chunks))]

    def wait(self) -> np.ndarray:
        """Wait for the reads; (row, index) of what is given out, in order, int64 [2, R].

        Rows count the positions of `buffers` from the first; an index is sequence · S + position.
        """
        for read in self._reads:
            read.result()
        rows, segment = np.flatnonzero(self._trainable), self._segment
        if len(rows) != len(segment.rows):
            raise UserError(
                f"found {len(rows)} trainable tokens in chunks {self._chunks.tolist()} of "
                f"{self._store.path}; expected {len(segment.rows)} by the manifest; run verify"
            )
        rows = rows[segment.rows[segment.first : segment.stop]]
        number, offset = np.divmod(rows, self._positions)
        index = self._store.layout.token_index(self._chunks[number], offset)
        return np.stack([rows + self._place * self._positions, index])

    def _read(self, number: int) -> None:
        chunk = int(self._chunks[number])
        trainable = self._store.read_trainable(chunk).ravel()
        self._trainable[number, : len(trainable)] = trainable
        for site, buffer in self._buffers.items():
            self._store.read_chunk_into(site, chunk, buffer[self._place + number])


class LaneReader:
    """Gives out the rows of one lane's buckets; holds two: one given out, and one being read.

    A bucket's reading begins when it is drawn from `buckets`, which may then reuse the places of
    the bucket before the last.
    """

    def __init__(self, buckets: Iterator[Bucket]) -> None:
        self._buckets = buckets
        self._next = next(buckets)
        self._left = np.empty((2, 0), np.int64)

    @property
    def is_used_up(self) -> bool:
        """Whether the current bucket has no more rows."""
        return not self._left.size

    def advance(self) -> None:
        """Make the bucket that was read ahead the current one, and ask for the one after.

        What was taken must have been copied: the places of the bucket before are read into anew.
        """
        self._left = self._next.wait()
        self._next = next(self._buckets)

    def take(self, out_2B: np.ndarray) -> int:
        """Fill `out_2B` with the next (row, index) of the current bucket; how many there were."""
        num = min(out_2B.shape[1], self._left.shape[1])
        out_2B[:, :num], self._left = self._left[:, :num], self._left[:, num:]
        return num
