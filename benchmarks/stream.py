"""Time reading beside numpy.memmap and other libraries: chunks, whole batches, and what is waited.

    python -m benchmarks.stream --folder FOLDER  # 5 GB there; prints one JSON object

A store of made-up activations is written in FOLDER, read, and removed. Rates are GB/s of
activations, medians of interleaved rounds.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.readers import READERS, SITE, Memmap, opened
from sae_dist.common.dtypes import from_storage
from sae_dist.common.memory import keep_freed_memory
from sae_dist.store import Store, write_store
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig

D, SEQUENCE, BATCH = 768, 128, 4096
CONFIG = StreamConfig()
_THREADS = [1, CONFIG.read_threads]
_ROUNDS = 3
_NUM_CHUNKS = 96  # read by each reader in each round
_CONSUMER_MS = [5, 10, 20]
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


def reader_rates(store: Store, is_cold: bool) -> dict[str, dict[str, float]]:
    """Medians by reader and number of threads; chunks are dealt anew in every round."""
    found: dict[str, dict[str, list[float]]] = {
        name: {str(threads): [] for threads in _THREADS} for name in READERS
    }
    for seed in range(_ROUNDS):
        order = np.random.default_rng(seed).permutation(whole_chunks(store))
        for name in READERS:
            for threads in _THREADS:
                if is_cold and not forget(store):
                    raise OSError("the page cache cannot be emptied here")
                rate = chunk_rate(name, store, order[:_NUM_CHUNKS], threads)
                found[name][str(threads)].append(rate)
    return {n: {t: statistics.median(r) for t, r in rates.items()} for n, rates in found.items()}


def memmap_batches(store: Store) -> Iterator[torch.Tensor]:
    """What one writes with memmap: copy shuffled chunks to a bucket, gather its permuted rows."""
    random, chunks, size = np.random.default_rng(0), whole_chunks(store), store.layout.chunk_rows
    num_chunks = min(CONFIG.bucket_tokens // size, len(chunks))
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


def own_batches(store: Store) -> Iterator[torch.Tensor]:
    """What training gets: checked, in an order that manifest, seed and step fix."""
    with ActivationStream(store, [SITE], BatchPart(BATCH, 0, CONFIG)) as stream:
        for batch, _ in stream:
            yield batch.acts[SITE]


def batch_rate(batches: Iterator[torch.Tensor]) -> tuple[float, float]:
    """(GB/s over a bucket after the first, seconds to the first batch)."""
    per_bucket = CONFIG.bucket_tokens // BATCH
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


def stream_rates(store: Store) -> dict[str, Any]:
    """The same job by memmap and by the stream, one after the other, in rounds."""
    makers = {"memmap": memmap_batches, "sae_dist": own_batches}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for _ in range(_ROUNDS):
        for name, make in makers.items():
            found[name].append(batch_rate(make(store)))
    rates = {name: statistics.median(rate for rate, _ in of) for name, of in found.items()}
    firsts = {name: statistics.median(first for _, first in of) for name, of in found.items()}
    ratios = [own[0] / other[0] for own, other in zip(*reversed(found.values()), strict=True)]
    ratio = statistics.median(ratios)
    return {"gb_per_s": rates, "ratio_to_memmap": ratio, "first_batch_s": firsts}


def stall_shares(store: Store) -> dict[str, float]:
    """The share of time a consumer waits that is busy so many ms a batch, off the CPU."""
    shares = {}
    for busy_ms in _CONSUMER_MS:
        with ActivationStream(store, [SITE], BatchPart(BATCH, 0, CONFIG)) as stream:
            batches = iter(stream)
            next(batches)
            before, waited = time.perf_counter(), stream.waited_seconds
            for _ in islice(batches, CONFIG.bucket_tokens // BATCH):
                time.sleep(busy_ms / 1e3)
            shares[str(busy_ms)] = (stream.waited_seconds - waited) / (time.perf_counter() - before)
    return shares


def measure(dtype: str, gib: float, folder: Path) -> dict[str, Any]:
    """Everything for one format."""
    store = make_store(folder / dtype, dtype, gib)
    chunk_bytes = store.layout.chunk_rows * D * store.dtype.storage.itemsize
    readers = {"warm": reader_rates(store, is_cold=False)}
    if forget(store):
        readers["cold"] = reader_rates(store, is_cold=True)
    return {
        "store_bytes": store.layout.num_sequences * SEQUENCE * D * store.dtype.storage.itemsize,
        "chunk_bytes": chunk_bytes,
        "readers_gb_per_s": readers,
        "stream": stream_rates(store),
        "stall_share_by_ms": stall_shares(store),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the store is written for the while")
    parser.add_argument("--gib", type=float, default=2.0, help="size of each store")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    options = parser.parse_args()
    keep_freed_memory()
    results: dict[str, Any] = {
        "d": D,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("numpy", *READERS)
            if name not in ("memmap", "sae_dist", "zarr-python")
        },
    }
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results[dtype] = measure(dtype, options.gib, Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
