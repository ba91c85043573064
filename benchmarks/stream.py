"""Reading a store beside numpy.memmap and other libraries: chunks, whole batches, and waiting.

A store of made-up activations is written, read, and removed. Rates are GB/s of activations, medians
of interleaved rounds; the floor is `memmap`, which checks nothing.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Figure, LeftOut
from benchmarks.readers import READERS, SITE, Memmap, opened
from benchmarks.timing import TEMPORARY
from sae_dist.common.dtypes import from_storage
from sae_dist.common.memory import keep_freed_memory
from sae_dist.store import Store, write_store
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig

D, SEQUENCE, BATCH = 768, 128, 4096
CONFIG = StreamConfig()
PACKAGES = ("numpy", "zarr", "zarrs", "tensorstore")
SMOKE = {"gib": 0.01, "rounds": 1, "threads": (1,), "bucket_tokens": 8192, "busy_ms": (5,)}
_NUM_CHUNKS = 96  # read by each reader in each round
_FORGETTING_TRIES = 20


def make_store(path: Path, dtype: str, gib: float) -> Store:
    """Normal numbers; the first position of each sequence is not trained on."""
    generator = torch.Generator().manual_seed(0)
    block_NSD = torch.randn(2048, SEQUENCE, D, generator=generator)
    num_blocks = max(2, round(gib * 2**30 / (block_NSD.numel() * 2)))
    trainable = torch.ones(num_blocks * len(block_NSD), SEQUENCE, dtype=torch.bool)
    trainable[:, 0] = False
    blocks = [block_NSD] * num_blocks
    return write_store(path, {SITE: blocks}, dtype=dtype, trainable=trainable)


def whole_chunks(store: Store) -> np.ndarray:
    """The training chunks, but for the last of each unit."""
    return np.flatnonzero(store.chunk_rows == store.layout.chunk_rows)


def forget(store: Store) -> bool:
    """Ask the system to drop the store from its page cache; whether it did."""
    return all(_forget(path) for path in store.path.rglob("c.*"))


def _forget(path: Path) -> bool:
    """Ask until no page is there: those that are still being read ahead are kept the first time."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(_FORGETTING_TRIES):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
            except BlockingIOError:
                return True
            time.sleep(0.1)
        return False
    finally:
        os.close(descriptor)


def chunk_rate(name: str, store: Store, chunks: np.ndarray, threads: int) -> float:
    """GB/s of one reader, each thread copying its share of the chunks to two buffers by turns."""
    shape = (2, store.layout.chunk_rows, D)
    buffers = [np.ones(shape, store.dtype.storage) for _ in range(threads)]
    with opened[name](store) as read, ThreadPoolExecutor(threads) as pool:

        def run(thread: int) -> None:
            for number, chunk in enumerate(chunks[thread::threads].tolist()):
                read(chunk, buffers[thread][number % 2])

        before = time.perf_counter()
        list(pool.map(run, range(threads)))
        seconds = time.perf_counter() - before
    return len(chunks) * buffers[0][0].nbytes / seconds / 1e9


def reader_rates(
    store: Store, is_cold: bool, rounds: int, num_threads: tuple[int, ...]
) -> dict[int, dict[str, float]]:
    """Medians by number of threads and reader; chunks are dealt anew in every round."""
    found: dict[int, dict[str, list[float]]] = {
        threads: {name: [] for name in READERS} for threads in num_threads
    }
    for seed in range(rounds):
        order = np.random.default_rng(seed).permutation(whole_chunks(store))
        for name in READERS:
            for threads in num_threads:
                if is_cold and not forget(store):
                    raise OSError("the page cache cannot be emptied here")
                rate = chunk_rate(name, store, order[:_NUM_CHUNKS], threads)
                found[threads][name].append(rate)
    return {t: {n: statistics.median(r) for n, r in rates.items()} for t, rates in found.items()}


def memmap_batches(store: Store, bucket_tokens: int) -> Iterator[torch.Tensor]:
    """What one writes with memmap: copy shuffled chunks to a bucket, gather its permuted rows."""
    random, chunks, size = np.random.default_rng(0), whole_chunks(store), store.layout.chunk_rows
    num_chunks = min(bucket_tokens // size, len(chunks))
    bucket = np.empty((num_chunks, size, D), store.dtype.storage)
    stored = from_storage(bucket, store.dtype).flatten(0, 1)
    memmap = Memmap(store)
    while True:
        drawn = random.permutation(chunks)[:num_chunks]
        for place, chunk in enumerate(drawn.tolist()):
            memmap.read(chunk, bucket[place])
        rows = torch.from_numpy(random.permutation(len(stored)))
        for rows_B in rows.split(BATCH)[: len(rows) // BATCH]:
            yield stored.index_select(0, rows_B)


def own_batches(store: Store, bucket_tokens: int) -> Iterator[torch.Tensor]:
    """What training gets: checked, in an order that manifest, seed and step fix."""
    with ActivationStream(store, [SITE], part_of(bucket_tokens)) as stream:
        for batch, _ in stream:
            yield batch.acts[SITE]


def batch_rate(batches: Iterator[torch.Tensor], bucket_tokens: int) -> tuple[float, float]:
    """(GB/s over a bucket after the first, seconds to the first batch)."""
    per_bucket = bucket_tokens // BATCH
    begun = time.perf_counter()
    next(batches)
    first = time.perf_counter() - begun
    for _ in islice(batches, per_bucket):
        pass
    before = time.perf_counter()
    num_bytes = sum(x_BD.nbytes for x_BD in islice(batches, per_bucket))
    rate = num_bytes / (time.perf_counter() - before) / 1e9
    batches.close()
    return rate, first


def part_of(bucket_tokens: int) -> BatchPart:
    """Whole batches, at the defaults but for the bucket."""
    return BatchPart(BATCH, 0, replace(CONFIG, bucket_tokens=bucket_tokens))


def stream_rates(store: Store, rounds: int, bucket_tokens: int) -> Iterator[Figure]:
    """The same job by memmap and by the stream, one after the other, in rounds."""
    makers = {"memmap": memmap_batches, "sae_dist": own_batches}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            found[name].append(batch_rate(make(store, bucket_tokens), bucket_tokens))
    for place, (name, unit) in enumerate((("whole batches", "GB/s"), ("first batch", "s"))):
        own, least = (
            statistics.median(pair[place] for pair in found[n]) for n in ("sae_dist", "memmap")
        )
        yield Figure(f"{name}, {store.dtype}", own, unit, least)


def stall_share(store: Store, busy_ms: int, bucket_tokens: int) -> float:
    """The share of time a consumer waits that is busy so many ms a batch, off the CPU."""
    with ActivationStream(store, [SITE], part_of(bucket_tokens)) as stream:
        batches = iter(stream)
        next(batches)
        before, waited = time.perf_counter(), stream.waited_seconds
        for _ in islice(batches, bucket_tokens // BATCH):
            time.sleep(busy_ms / 1e3)
        return (stream.waited_seconds - waited) / (time.perf_counter() - before)


def run(
    dtypes: tuple[str, ...] = ("bfloat16",),
    gib: float = 2.0,
    rounds: int = 3,
    threads: tuple[int, ...] = (1, CONFIG.read_threads),
    busy_ms: tuple[int, ...] = (5, 10, 20),
    bucket_tokens: int = CONFIG.bucket_tokens,
    folder: Path = TEMPORARY,
) -> Iterator[Figure | LeftOut]:
    """GB/s of chunks and of whole batches, and the share of its time that a step waits.

    Args:
        dtypes: of the stores.
        gib: size of each store.
        rounds: whose median counts.
        threads: that read chunks.
        busy_ms: how long a step takes that asks for batches.
        bucket_tokens: of the stream.
        folder: where a store is written for the while; 5 GB.
    """
    keep_freed_memory()
    for dtype in dtypes:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            store = make_store(Path(own) / dtype, dtype, gib)
            for name, is_cold in (("page cache", False), ("disk", True)):
                if is_cold and not forget(store):
                    yield LeftOut(f"chunks from {name}", "the page cache cannot be emptied here")
                    continue
                for count, rates in reader_rates(store, is_cold, rounds, threads).items():
                    title = f"chunks from {name}, {dtype}, {count} threads"
                    rate, floor = rates.pop("sae_dist"), rates.pop("memmap")
                    yield Figure(title, rate, "GB/s", floor, rates)
            yield from stream_rates(store, rounds, bucket_tokens)
            for ms in busy_ms:
                share = 100 * stall_share(store, ms, bucket_tokens)
                yield Figure(f"a step of {ms} ms waits, {dtype}", share, "%", target="< 5 %")
