"""Time reading shuffled chunks of a store in an object store beside a plain loop of ranged GETs.

    SAE_DIST_S3=.venv-s3/bin/python python -m benchmarks.objects
    python -m benchmarks.objects --url s3://BUCKET/PATH  # of a service; a store is written there

Prints one JSON object. Without a URL it starts the tests' S3 server (`make .venv-s3/.ready`), whose
own work is most of the time. Both read by the same library into the same buffers, the loop without
comparing a checksum, block by block in turns: ratios are of neighbouring blocks.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import obstore
from obstore.store import from_url

from sae_dist.common.dtypes import FloatDtype
from sae_dist.store import Store, StoreConfig, StoreWriter, open_store
from sae_dist.store.layout import CRC_BYTES, activations_path
from tests.s3 import s3_server

SITE, WIDTH, POSITIONS = "x", 768, 128
_SHARDS, _SHARD_MIB = 8, 8.0  # small ones: the tests' server reads a whole object for a range
_BLOCKS, _BLOCK_CHUNKS = 24, 16
_THREADS = (1, 4)

Read = Callable[[int, np.ndarray], object]


def write(url: str) -> Store:
    """Shards of random bits."""
    count = int(_SHARDS * _SHARD_MIB * 2**20) // (POSITIONS * WIDTH * 2)
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


def measure(store: Store, url: str) -> dict[str, dict[str, float]]:
    """By number of threads: rates, and the ratios of neighbouring blocks."""
    whole = np.flatnonzero(store.chunk_rows == store.layout.chunk_rows)
    shape = (store.layout.chunk_rows, WIDTH)
    loop, found = plain(store, url), {}
    for threads in _THREADS:
        buffers = [np.ones(shape, FloatDtype.bfloat16.storage) for _ in range(threads)]
        rates: dict[str, list[float]] = {"loop": [], "store": []}
        for block in range(_BLOCKS):
            chunks = np.random.default_rng(block).choice(whole, _BLOCK_CHUNKS, replace=False)
            readers = [("loop", loop), ("store", lambda c, out: store.read_rows_into(SITE, c, out))]
            for name, read in readers[:: 1 if block % 2 else -1]:  # neither is always the second
                num_bytes = len(chunks) * buffers[0].nbytes
                rates[name].append(num_bytes / seconds(read, chunks, buffers) / 1e9)
        ratios = [own / other for own, other in zip(rates["store"], rates["loop"], strict=True)]
        found[str(threads)] = {
            "loop_gb_per_s": statistics.median(rates["loop"]),
            "store_gb_per_s": statistics.median(rates["store"]),
            "ratio": statistics.median(ratios),
            "smallest_ratio": min(ratios),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="where to write a store (default: on a server of the tests)")
    options = parser.parse_args()
    with ExitStack() as servers:
        if options.url is None:
            os.environ.update(servers.enter_context(s3_server()))
        url = options.url or "s3://bucket/store"
        store = write(url)
        chunk_mib = store.layout.chunk_rows * WIDTH * 2 / 2**20
        print(json.dumps({"chunk_mib": round(chunk_mib, 2), "threads": measure(store, url)}))


if __name__ == "__main__":
    main()
