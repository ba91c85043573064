"""The rows of one lane, bucket by bucket, the next bucket being read while one is given out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.store import Store
from sae_dist.stream.order import Segment


class Bucket:
    """The positions of one segment's chunks at every site, being read by a pool's threads.

    They are read straight into `buffers[site]` [bucket_chunks, chunk_sequences, S, d] (storage
    dtype), which is the bucket's until it is used up.
    """

    def __init__(
        self,
        store: Store,
        buffers: dict[str, np.ndarray],
        chunks: np.ndarray,
        segment: Segment,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._store, self._buffers = store, buffers
        self._chunks, self._segment = chunks, segment
        self._positions = store.layout.chunk_sequences * store.layout.sequence_length
        self._trainable = np.zeros((len(chunks), self._positions), bool)
        self._reads = [pool.submit(self._read, place) for place in range(len(chunks))]

    @property
    def acts(self) -> dict[str, torch.Tensor]:
        """The buffers as [bucket_chunks · positions, d]; no copy."""
        return {
            site: from_storage(buffer, self._store.dtype).flatten(0, 2)
            for site, buffer in self._buffers.items()
        }

    def wait(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the reads; (rows, index) of what is given out, in order, both int64 [R].

        `rows` are rows of `acts[site]`; `index` is sequence · S + position.
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
        place, offset = np.divmod(rows, self._positions)
        index = self._chunks[place] * self._positions + offset
        return torch.from_numpy(rows), torch.from_numpy(index)

    def _read(self, place: int) -> None:
        chunk = int(self._chunks[place])
        trainable = self._store.read_tokens(chunk)[1].ravel()
        self._trainable[place, : len(trainable)] = trainable
        for site, buffer in self._buffers.items():
            self._store.read_chunk_into(site, chunk, buffer[place])


class LaneReader:
    """Gives out the rows of one lane's buckets; holds two: one given out, and one being read.

    A bucket's reading begins when it is drawn from `buckets`, which may then reuse the buffers of
    the bucket before the last.
    """

    def __init__(self, buckets: Iterator[Bucket]) -> None:
        self._buckets = buckets
        self._next = next(buckets)
        self._acts: dict[str, torch.Tensor] = {}
        self._rows = self._index = torch.empty(0, dtype=torch.int64)

    def take(self, index_B: torch.Tensor, acts: dict[str, torch.Tensor]) -> None:
        """Fill `index_B` [B] and, for each site, `acts[site]` [B, d] with the next B rows."""
        done = 0
        while done < len(index_B):
            if not len(self._rows):
                self._advance()
            rows, self._rows = self._rows.tensor_split([len(index_B) - done])
            index, self._index = self._index.tensor_split([len(index_B) - done])
            place = slice(done, done + len(rows))
            index_B[place] = index
            for site, out in acts.items():
                torch.index_select(self._acts[site], 0, rows, out=out[place])
            done += len(rows)

    def _advance(self) -> None:
        """Make the bucket that was read ahead the current one, and ask for the one after."""
        self._rows, self._index = self._next.wait()
        self._acts = self._next.acts
        self._next = next(self._buckets)
