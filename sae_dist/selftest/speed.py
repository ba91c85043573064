"""What messages, reading and products cost here: a slow link, disk or device stands out."""

import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist

from sae_dist.selftest.check import Found, Place
from sae_dist.selftest.rates import product_rate, seconds_of
from sae_dist.store import open_store, write_store
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig

_SUM_BYTES, _SMALL_SUMS, _LARGE_SUMS = 1 << 26, 100, 5
_STORE_TOKENS, _STORE_WIDTH, _BATCH_TOKENS = 65536, 512, 4096
_LEAST_SHARE = 0.5  # of the median rank's rate


def sums(place: Place) -> Found:
    """All ranks get the sum of all; the time a small message takes, and a large one's rate."""
    rank, size, device = place.world.rank, place.world.size, place.world.device
    ranks = torch.full((_SUM_BYTES // 4,), float(rank), device=device)
    dist.all_reduce(ranks)
    agree = all(place.together(lambda: bool((ranks == size * (size - 1) // 2).all())))
    small = torch.zeros(1, device=device)
    latency = seconds_of(lambda: dist.all_reduce(small), device, _SMALL_SUMS)
    large = seconds_of(lambda: dist.all_reduce(ranks), device, _LARGE_SUMS)
    latency, large = (max(place.together(lambda s=seconds: s)) for seconds in (latency, large))
    rate = 2 * (size - 1) / size * _SUM_BYTES / large  # bytes that a ring puts on each link
    text = f"{1e6 * latency:.0f} µs; 64 MiB: {1e3 * large:.0f} ms, {rate / 1e9:.2f} GB/s a rank"
    return Found(text if size > 1 else "one process: nothing sent", agree)


def stream(place: Place) -> Found:
    """Every rank reads its rows of shuffled batches, checksums checked, at a rate like the rest."""
    path = place.folder / "large"
    place.first(_make_large, path)
    return _compared([rate / 1e9 for rate in place.together(_read_rate, place)], "GB/s")


def products(place: Place) -> Found:
    """Every rank's device multiplies matrices at a rate like the rest."""
    return _compared(
        [r / 1e12 for r in place.together(product_rate, place.world.device)], "TFLOP/s"
    )


def _compared(rates: list[float], unit: str) -> Found:
    least, median = min(rates), statistics.median(rates)
    text = f"{least:.3g} / {median:.3g} {unit} (min / median)"
    slow = [rank for rank, rate in enumerate(rates) if rate < _LEAST_SHARE * median]
    return Found(text + (f"; slow: rank {', '.join(map(str, slow))}" if slow else ""), not slow)


def _make_large(path: Path) -> None:
    """Some 64 MiB of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    shape = (_STORE_TOKENS // 8, _STORE_WIDTH)
    blocks = (torch.randn(shape, generator=generator) for _ in range(8))
    write_store(path, {"made_up": blocks}, held_out=0, chunk_mib=0.25, shard_mib=8)


def _read_rate(place: Place) -> float:
    """Bytes a second of one epoch of the stream, this rank's part."""
    world = place.world
    config = StreamConfig(bucket_tokens=16384 * world.size)
    store = open_store(place.folder / "large")
    batch_tokens = _BATCH_TOKENS * world.size
    part = BatchPart(batch_tokens, 0, config, world.rank, world.size)
    stream = ActivationStream(store, ["made_up"], part)
    num_bytes, start = 0, time.perf_counter()
    with stream:
        for batch, state in stream:
            num_bytes += sum(x.nbytes for x in batch.acts.values())
            if state.step * batch_tokens >= 4 * _STORE_TOKENS:
                break
    return num_bytes / (time.perf_counter() - start)
