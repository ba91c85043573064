"""Batches of activations for ever, each with the state from which to go on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.log import say
from sae_dist.store import Store
from sae_dist.store.eight_bits import passing_bytes
from sae_dist.store.layout import Layout
from sae_dist.stream.ahead import Ahead
from sae_dist.stream.batches import Batch, Batches, BatchPart, StreamState
from sae_dist.stream.buckets import Bucket, LaneReader
from sae_dist.stream.config import StreamConfig
from sae_dist.stream.order import TokenOrder, fitting_lanes

_GATHER_THREADS, _ROWS_AT_ONCE = 2, 1024


class ActivationStream(Batches):
    """Iterates `(Batch, StreamState)` for ever over the training shards of a store.

    A rank serves an equal share of the lanes, so the batches of all ranks, one after the other, are
    the same global batch in every world. Several sites are read at the same index. Iterating again
    after a stop goes on with the next batch.

    Memory of one rank, at most: two buckets a lane, `batches_ahead` + 2 batches, and the marks (in
    eight bits also the stored values) of one chunk a reading thread; `memory_bound` gives it in
    bytes. `waited_seconds` is the time the
    consumer was kept waiting; `tokens_per_epoch` the tokens of the first epoch (others differ by
    the dropped tails of lanes). Use it as a context manager, or `close` it, to end its threads.
    """

    def __init__(self, store: Store, sites: Sequence[str], part: BatchPart) -> None:
        """Raises UserError for unknown sites, a world not dividing the lanes, or too few tokens."""
        for site in sites:
            store.statistics(site)
        self.waited_seconds = 0.0
        self._store, self._sites = store, list(sites)
        self._config = config = part.config
        self._step, self._batch_tokens = part.start_step, part.batch_tokens
        counts = store.trainable_counts()
        chunks = np.array(store.training_chunks(), np.int64)
        self._chunks = chunks[counts[chunks] > 0]
        rows = counts[self._chunks]
        num_lanes = config.lanes or fitting_lanes(rows, part.batch_tokens)
        self._lanes = part.lanes_of(num_lanes)
        self._bucket_chunks = _bucket_chunks(store.layout, config.bucket_tokens, num_lanes)
        self._order = TokenOrder(rows, num_lanes, self._bucket_chunks, part.batch_tokens, part.seed)
        self._running: tuple[Ahead[Batch], list[ThreadPoolExecutor]] | None = None
        self._warn_of_short_epochs(int(counts[self._chunks].sum()))

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens that all ranks together see in the first epoch."""
        return self._order.steps_in_epoch(0) * self._batch_tokens

    @property
    def memory_bound(self) -> int:
        """Bytes that buckets, batches and tokens being read can take on this rank."""
        widths = {site: self._store.sites[site] for site in self._sites}
        lanes, held = self._order.lanes, len(self._lanes)
        layout, dtype, config = self._store.layout, self._store.dtype, self._config
        return memory_bound(layout, widths, dtype, config, self._batch_tokens, lanes, held)

    def state_at(self, step: int) -> StreamState:
        """The state whose next batch is number `step`, counted from the very first."""
        return StreamState(step=step, epoch=self._order.locate(step)[0])

    def __iter__(self) -> Iterator[tuple[Batch, StreamState]]:
        if self._running is not None:
            raise RuntimeError("this stream is being iterated already; close it first")
        readers = ThreadPoolExecutor(self._config.read_threads, "sae-read")
        gatherers = ThreadPoolExecutor(_GATHER_THREADS, "sae-gather")  # not queued behind reads
        ahead = Ahead(self._batches(self._step, readers, gatherers), self._config.batches_ahead)
        self._running = running = (ahead, [readers, gatherers])
        before = self.waited_seconds
        try:
            for batch in ahead:
                self.waited_seconds = before + ahead.waited_seconds
                self._step += 1
                yield batch, self.state_at(self._step)
        finally:
            if self._running is running:
                self.close()

    def close(self) -> None:
        """End all threads; an iteration under way ends. Closing twice does no harm."""
        running, self._running = self._running, None
        if running is None:
            return
        ahead, pools = running

        def stop_pools() -> None:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)

        ahead.close(wake=stop_pools)
        for pool in pools:
            pool.shutdown()

    def _batches(
        self, step: int, readers: ThreadPoolExecutor, gatherers: ThreadPoolExecutor
    ) -> Iterator[Batch]:
        buffers = self._buffers()
        lanes = [LaneReader(self._buckets(lane, step, buffers, readers)) for lane in self._lanes]
        stored = {site: buffer.reshape(-1, buffer.shape[-1]) for site, buffer in buffers.items()}
        while True:
            yield self._assemble(lanes, stored, gatherers)

    def _buckets(
        self, lane: int, step: int, buffers: dict[str, np.ndarray], pool: ThreadPoolExecutor
    ) -> Iterator[Bucket]:
        """A lane's buckets, in its two places by turns: new memory is as slow as reading."""
        size = self._bucket_chunks
        places = cycle([2 * size * (lane - self._lanes.start) + turn * size for turn in range(2)])
        for segment, place in zip(self._order.segments(lane, step), places, strict=False):
            chunks = self._chunks[segment.chunks]
            yield Bucket(self._store, buffers, place, chunks, segment, pool)

    def _buffers(self) -> dict[str, np.ndarray]:
        """All buckets of all lanes in one array a site, from which one call gathers a batch."""
        layout, dtype = self._store.layout, self._store.dtype.storage
        num_chunks = 2 * len(self._lanes) * self._bucket_chunks
        shape = (num_chunks, layout.chunk_sequences, layout.chunk_positions)
        return {site: np.empty((*shape, self._store.sites[site]), dtype) for site in self._sites}

    def _assemble(
        self, lanes: list[LaneReader], stored: dict[str, np.ndarray], pool: ThreadPoolExecutor
    ) -> Batch:
        """The next batch: every lane's rows of `stored[site]`, one lane after the other.

        Rows are noted lane by lane and gathered in one go: in two only where a lane goes on to its
        next bucket, because the places of the one used up are then read into anew.
        """
        share = self._order.lane_tokens
        rows, index = places = np.empty((2, len(lanes) * share), np.int64)
        acts = {
            site: np.empty((len(rows), values.shape[1]), values.dtype)
            for site, values in stored.items()
        }
        gathered = done = 0
        for end, lane in enumerate(lanes, 1):
            while done < end * share:
                if lane.is_used_up:
                    _gather(stored, rows, slice(gathered, done), acts, pool)
                    gathered = done
                    lane.advance()
                done += lane.take(places[:, done : end * share])
        _gather(stored, rows, slice(gathered, done), acts, pool)
        tensors = {site: from_storage(out, self._store.dtype) for site, out in acts.items()}
        return Batch(acts=tensors, index=torch.from_numpy(index))

    def _warn_of_short_epochs(self, num_tokens: int) -> None:
        if self.tokens_per_epoch < 0.9 * num_tokens:
            say(
                f"an epoch uses {self.tokens_per_epoch} of {num_tokens} training tokens, because "
                "lanes differ in length: lower stream.lanes, or store smaller chunks (chunk_mib)"
            )


def memory_bound(
    layout: Layout,
    widths: dict[str, int],
    dtype: FloatDtype,
    config: StreamConfig,
    batch_tokens: int,
    lanes: int,
    held: int,
) -> int:
    """Bytes that a rank with `held` of the lanes holds at most, reading sites of `widths`."""
    chunk, row_bytes = layout.chunk_tokens, sum(widths.values()) * dtype.storage.itemsize
    # beside its values a bucket's position has a mark, and as a batch's row two numbers
    bucket_chunks = _bucket_chunks(layout, config.bucket_tokens, lanes)
    bucket = bucket_chunks * chunk * (row_bytes + 1 + 8 + 8)
    batch = held * (batch_tokens // lanes) * (row_bytes + 8 + 8)
    reading = config.read_threads * chunk * (1 + passing_bytes(widths, dtype))
    return 2 * held * bucket + (config.batches_ahead + 2) * batch + reading


def _bucket_chunks(layout: Layout, bucket_tokens: int, lanes: int) -> int:
    return max(1, bucket_tokens // (lanes * layout.chunk_tokens))


def _gather(
    stored: dict[str, np.ndarray],
    rows: np.ndarray,
    part: slice,
    acts: dict[str, np.ndarray],
    pool: ThreadPoolExecutor,
) -> None:
    """Copy the rows of one part of a batch, at every site, in pieces by a pool's threads.

    By numpy: torch would start threads here that spin beside those of the training step. Rows are
    in range; "clip" only says so, and spares a copy that "raise" makes.
    """
    starts = range(part.start, part.stop, _ROWS_AT_ONCE)
    pieces = [slice(start, min(start + _ROWS_AT_ONCE, part.stop)) for start in starts]
    copies = [
        pool.submit(np.take, stored[site], rows[piece], 0, out[piece], "clip")
        for site, out in acts.items()
        for piece in pieces
    ]
    for copied in copies:
        copied.result()
