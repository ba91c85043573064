"""Batches of activations for ever, each with the state from which to go on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.stream.batches import Batch, Batches, BatchPart, Step, StreamState
from sae_dist.stream.order import Share, TokenOrder, largest_bucket
from sae_dist.stream.prefetch import Prefetch

if TYPE_CHECKING:
    from sae_dist.store import Store

_GATHER_THREADS, _ROWS_AT_ONCE = 2, 1024
_ORDER_BYTES = 64  # a chunk, while an epoch's order is made


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
        self, store: "Store", share: Share, place: Place, readers: ThreadPoolExecutor
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


def _read(store: "Store", chunk: int, place: Place, rows: slice) -> None:
    for site, stored in place.acts.items():
        store.read_rows_into(site, chunk, stored[rows])
    if place.index is not None:
        place.index[rows] = store.read_index(chunk)


class ActivationStream(Batches):
    """The training shards of a store as `Batches`.

    The batches of all ranks, one after the other, are the same global batch in every world, and a
    rank reads hardly more than its part. Several sites are read at the same index.

    Memory of one rank, at most: its part of two buckets and the rest of their outermost chunks,
    `batches_ahead` + 2 batches, an epoch's order of all chunks, and what reading a chunk takes;
    `memory_bound` gives it in bytes. `tokens_per_epoch` is the tokens of an epoch.
    """

    def __init__(self, store: "Store", sites: Sequence[str], part: BatchPart) -> None:
        """Raises UserError for unknown sites, too few tokens, and lanes, which a store has not."""
        for site in sites:
            store.statistics(site)
        if part.config.lanes is not None:
            raise UserError(
                f"found stream.lanes={part.config.lanes} for a store; expected lanes with "
                "store=live alone; drop it"
            )
        super().__init__(part)
        self._store, self._sites = store, list(sites)
        self._order = TokenOrder(
            store.chunk_rows, store.unit_of_chunk, part.batch_tokens, part.bucket_tokens, part.seed
        )

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens that all ranks together see in an epoch."""
        return self._order.steps_in_epoch * self._part.batch_tokens

    @property
    def memory_bound(self) -> int:
        """Bytes that buckets, batches and what is being read can take on this rank."""
        store = self._store
        widths = {site: store.sites[site] for site in self._sites}
        num_rows, chunk_rows = int(store.chunk_rows.sum()), store.layout.chunk_rows
        return memory_bound(num_rows, chunk_rows, widths, store.dtype, self._part)

    def state_at(self, step: int) -> StreamState:
        """The state whose next batch is number `step`, counted from the very first."""
        return StreamState(step=step, epoch=self._order.locate(step)[0])

    def _start(self, threads: ExitStack) -> Prefetch[Step]:
        config = self._part.config
        pools = [  # gathering does not queue behind reading
            threads.enter_context(ThreadPoolExecutor(config.read_threads, "sae-read")),
            threads.enter_context(ThreadPoolExecutor(_GATHER_THREADS, "sae-gather")),
        ]

        def stop() -> None:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)

        numbered = enumerate(self._batches(*pools), self._step + 1)
        items = ((batch, self.state_at(step)) for step, batch in numbered)
        ahead = Prefetch(items, config.batches_ahead)
        threads.callback(ahead.close, stop)
        return ahead

    def _batches(
        self, readers: ThreadPoolExecutor, gatherers: ThreadPoolExecutor
    ) -> Iterator[Batch]:
        """Bucket by bucket, the next being read while one is given out; in two places by turns."""
        shares = self._order.shares(self._step, self._part.rows)
        places = cycle([self._place() for _ in range(2)])  # new memory is as slow as reading
        coming = Bucket(self._store, next(shares), next(places), readers)
        while True:
            now = coming
            now.wait()
            batch = self._gather(now.place, now.share.rows[0], gatherers)  # not kept from it by
            coming = Bucket(self._store, next(shares), next(places), readers)  # what is read now
            yield batch
            for rows in now.share.rows[1:]:
                yield self._gather(now.place, rows, gatherers)

    def _place(self) -> Place:
        store, part = self._store, self._part
        num = _place_rows(int(store.chunk_rows.sum()), store.layout.chunk_rows, part)
        acts = {s: np.empty((num, store.sites[s]), store.dtype.storage) for s in self._sites}
        return Place(acts, np.empty(num, np.int64) if part.with_index else None)

    def _gather(self, place: Place, rows: np.ndarray, pool: ThreadPoolExecutor) -> Batch:
        """Copy rows of a place at every site, in pieces by a pool's threads.

        By numpy: torch would start threads here that spin beside those of the training step. Rows
        are in range; "clip" only says so, and spares a copy that "raise" makes.
        """
        acts = {
            site: np.empty((len(rows), stored.shape[1]), stored.dtype)
            for site, stored in place.acts.items()
        }
        pieces = [slice(i, i + _ROWS_AT_ONCE) for i in range(0, len(rows), _ROWS_AT_ONCE)]
        copies = [
            pool.submit(np.take, place.acts[site], rows[piece], 0, out[piece], "clip")
            for site, out in acts.items()
            for piece in pieces
        ]
        index = None if place.index is None else torch.from_numpy(place.index[rows])
        for copied in copies:
            copied.result()
        tensors = {site: from_storage(out, self._store.dtype) for site, out in acts.items()}
        return Batch(acts=tensors, index=index)


def memory_bound(
    num_rows: int, chunk_rows: int, widths: dict[str, int], dtype: FloatDtype, part: BatchPart
) -> int:
    """Bytes that a rank holds at most of a store of `num_rows`, reading sites of `widths`."""
    row_bytes = sum(widths.values()) * dtype.storage.itemsize + (8 if part.with_index else 0)
    num_steps = largest_bucket(num_rows, part.batch_tokens, part.bucket_tokens)
    own = part.rows.stop - part.rows.start
    places = 2 * _place_rows(num_rows, chunk_rows, part) * row_bytes
    orders = num_steps * (2 * 8 * own + (4 + 8) * part.batch_tokens)
    batches = (part.config.batches_ahead + 2) * own * row_bytes
    passing = max(widths.values()) * dtype.disk.itemsize  # of a unit's last chunk, filled up
    if dtype is FloatDtype.int8:
        passing = 2 * passing + np.dtype("float32").itemsize  # as stored, with the scale
    reading = part.config.read_threads * chunk_rows * passing
    return places + orders + batches + reading + _ORDER_BYTES * -(-num_rows // chunk_rows)


def _place_rows(num_rows: int, chunk_rows: int, part: BatchPart) -> int:
    """Rows of the chunks that hold a part of a bucket, of the outermost two not all its own."""
    num_steps = largest_bucket(num_rows, part.batch_tokens, part.bucket_tokens)
    own = part.rows.stop - part.rows.start
    return min(num_rows, num_steps * own + 2 * (chunk_rows - 1))
