"""A part of one bucket in memory, read chunk by chunk by several threads."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sae_dist.store import Store
from sae_dist.stream.order import Share


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Room for the chunks of a share: `acts[site]` [rows, d] in storage dtype.

    `index` int64 [rows], or None where nobody asks for it.
    """

    acts: dict[str, np.ndarray]
    index: np.ndarray | None


class Bucket:
    """A share of a bucket on its way into a place, which is its own until it is used up."""

    def __init__(
        self, store: Store, share: Share, place: Place, readers: ThreadPoolExecutor
    ) -> None:
        self.share, self.place = share, place
        starts = np.concatenate([[0], np.cumsum(store.chunk_rows[share.chunks])]).tolist()
        self._reads: list[Future[None]] = [
            readers.submit(_read, store, chunk, place, slice(start, stop))
            for chunk, start, stop in zip(share.chunks.tolist(), starts, starts[1:], strict=False)
        ]

    def wait(self) -> None:
        """Wait until all chunks are there, or raise what reading one of them raised."""
        for read in self._reads:
            read.result()


def _read(store: Store, chunk: int, place: Place, rows: slice) -> None:
    for site, stored in place.acts.items():
        store.read_rows_into(site, chunk, stored[rows])
    if place.index is not None:
        place.index[rows] = store.read_index(chunk)
