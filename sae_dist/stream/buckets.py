"""The rows of one lane, bucket by bucket, the next bucket being read while one is given out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.store import Store
from sae_dist.stream.order import Segment


class Bucket:
    """The positions of one segment's chunks at every site, being read by a pool's threads."""

    def __init__(
        self,
        store: Store,
        sites: Sequence[str],
        chunks: np.ndarray,
        segment: Segment,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._store, self._chunks, self._segment = store, chunks, segment
        self._positions = store.layout.chunk_sequences * store.layout.sequence_length
        size = len(chunks) * self._positions
        self._trainable = np.zeros(size, bool)
        self.acts = {
            site: torch.empty(size, store.sites[site], dtype=store.dtype.compute) for site in sites
        }
        self._reads = [pool.submit(self._read, place) for place in range(len(chunks))]

    def wait(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Wait for the reads; (rows, index) of what is given out, in order, both int64 [R].

        `rows` are rows of `acts[site]` [chunks · positions, d]; `index` is sequence · S + position.
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
        start = place * self._positions
        trainable = self._store.read_tokens(chunk)[1].ravel()
        stop = start + len(trainable)
        self._trainable[start:stop] = trainable
        for site, acts in self.acts.items():
            values = from_storage(self._store.read_chunk(site, chunk), self._store.dtype)
            acts[start:stop] = values.flatten(0, 1)


class LaneReader:
    """Gives out the rows of one lane's buckets; holds at most two of them.

    `buckets` is called for the next bucket, whose reading then begins.
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
        self._acts = {}  # freed first: never three buckets at once
        self._rows, self._index = self._next.wait()
        self._acts = self._next.acts
        self._next = next(self._buckets)
