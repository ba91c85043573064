"""Shuffled chunks of a store in an object store, beside a plain loop of ranged GETs.

Both read by the same library into the same buffers, the loop without comparing a checksum, block by
block in turns; ratios are of neighbouring blocks. Without a URL the tests' S3 server is started
(`SAE_DIST_S3=.venv-s3/bin/python`, from `make .venv-s3/.ready`): its own work is most of the time.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import obstore
from obstore.store import from_url

from benchmarks.figures import Figure
from sae_dist.common.dtypes import FloatDtype
from sae_dist.store import Store, StoreConfig, StoreWriter, open_store
from sae_dist.store.layout import CRC_BYTES, activations_path
from tests.s3 import s3_server

SITE, WIDTH, POSITIONS = "x", 768, 128
_SHARD_MIB = 8.0  # small ones: the tests' server reads a whole object for a range
_BLOCK_CHUNKS = 16
_OF_SERVER = "s3://bucket/store"
PACKAGES = ("obstore",)
SMOKE = {"threads": (1,), "blocks": 2, "shards": 2}

Read = Callable[[int, np.ndarray], object]


def write(url: str, shards: int) -> Store:
    """Shards of random bits."""
    count = int(shards * _SHARD_MIB * 2**20) // (POSITIONS * WIDTH * 2)
    config = StoreConfig(held_out=0.0, shard_mib=_SHARD_MIB)
    writer = StoreWriter.create(url, {SITE: WIDTH}, POSITIONS, config, {}, count)
    size, rng = writer.settings.shard_sequences, np.random.default_rng(0)
    for unit, first in enumerate(range(0, count, size)):
        shape = (min(size, count - first), POSITIONS)
        writer.put_tokens(unit, np.zeros(shape, np.int32), np.ones(shape, bool), None)
        acts_NSD = rng.integers(0, 2**14, (*shape, WIDTH), np.uint16)
        writer.write_unit(unit, {SITE: acts_NSD})
    writer.end_tokens(count, {})
    writer.seal()
    return open_store(url)


def plain(store: Store, url: str) -> Read:
    """The loop that one would write: where a chunk is, from the layout."""
    spec = store.manifest.settings.specs()[activations_path(SITE, True)]
    client, first = from_url(url), np.searchsorted(store.unit_of_chunk, store.unit_of_chunk)

    def read(chunk: int, out: np.ndarray) -> None:
        start = (chunk - int(first[chunk])) * spec.chunk_bytes
        name = spec.file(int(store.unit_of_chunk[chunk]))
        end = start + spec.chunk_bytes - CRC_BYTES
        data = obstore.get_range(client, name, start=start, end=end)
        out.view(np.uint8).ravel()[:] = np.frombuffer(memoryview(data), np.uint8)

    return read


def seconds(read: Read, chunks: np.ndarray, buffers: list[np.ndarray]) -> float:
    """How long so many threads take for these chunks."""
    threads = len(buffers)

    def run(thread: int) -> None:
        for chunk in chunks[thread::threads].tolist():
            read(chunk, buffers[thread])

    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        list(pool.map(run, range(threads)))
        return time.perf_counter() - begun


def run(
    url: str = "",
    threads: tuple[int, ...] = (1, 4),
    blocks: int = 24,
    shards: int = 8,
) -> Iterator[Figure]:
    """GB/s by number of threads, floors those of the loop; a store is written at `url`."""
    with ExitStack() as servers:
        if not url:
            os.environ.update(servers.enter_context(s3_server()))
        store = write(url or _OF_SERVER, shards)
        for num in threads:
            yield speed(store, url or _OF_SERVER, num, blocks)


def speed(store: Store, url: str, threads: int, blocks: int) -> Figure:
    """The median of the store's rates, beside the loop's."""
    whole = np.flatnonzero(store.chunk_rows == store.layout.chunk_rows)
    loop, shape = plain(store, url), (store.layout.chunk_rows, WIDTH)
    buffers = [np.ones(shape, FloatDtype.bfloat16.storage) for _ in range(threads)]
    rates: dict[str, list[float]] = {"loop": [], "store": []}
    for block in range(blocks):
        count = min(_BLOCK_CHUNKS, len(whole))
        chunks = np.random.default_rng(block).choice(whole, count, replace=False)
        readers = [("loop", loop), ("store", lambda c, out: store.read_rows_into(SITE, c, out))]
        for name, read in readers[:: 1 if block % 2 else -1]:  # neither is always the second
            num_bytes = len(chunks) * buffers[0].nbytes
            rates[name].append(num_bytes / seconds(read, chunks, buffers) / 1e9)
    ratios = [own / other for own, other in zip(rates["store"], rates["loop"], strict=True)]
    spread = f"ratios of blocks {min(ratios):.2f} to {max(ratios):.2f}"
    told = f"chunks from S3, {threads} threads ({spread})"
    median = statistics.median(rates["store"])
    return Figure(told, median, "GB/s", median / statistics.median(ratios))
