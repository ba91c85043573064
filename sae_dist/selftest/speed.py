"""What messages, reading and products cost here: a slow link, disk or device stands out."""

import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from sae_dist.selftest.check import Found, Place
from sae_dist.selftest.rates import product_rate, seconds_of
from sae_dist.store import open_store, write_store
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig

_SUM_BYTES, _SMALL_SUMS, _LARGE_SUMS = 1 << 26, 100, 5
_STORE_TOKENS, _STORE_WIDTH, _BATCH_TOKENS = 65536, 512, 4096
_RATES = {"in_node_gbps": "a rank in a node", "between_nodes_gbps": "between nodes"}
_LEAST_SHARE = 0.5  # of the median rank's rate


def sums(place: Place) -> Found:
    """All ranks get the sum of all; what messages take, in a node and between nodes."""
    world = place.world
    ranks = torch.full((_SUM_BYTES // 4,), float(world.rank), device=world.device)
    dist.all_reduce(ranks)
    agree = all(place.together(lambda: bool((ranks == world.size * (world.size - 1) // 2).all())))
    if world.size == 1:
        return Found("one process: nothing sent", agree)
    measured = network(place)
    rates = [
        f"{measured[key]:.3g} GB/s {where}" for key, where in _RATES.items() if key in measured
    ]
    return Found(f"{measured['latency_us']:.0f} µs; 64 MiB: {', '.join(rates)}", agree, measured)


def network(place: Place) -> dict[str, float]:
    """What messages take, as keys of `MachineConfig`; nodes are hosts. For two ranks or more.

    The latency is that of a small sum over all ranks, a rate what a ring puts on each link for a
    large one: of all nodes at once, each over its own ranks, and of all ranks where there are
    several nodes. The slowest rank counts.
    """
    world = place.world
    hosts = place.together(socket.gethostname)
    nodes = [[rank for rank, host in enumerate(hosts) if host == one] for one in set(hosts)]
    nodes.sort()
    largest = max(map(len, nodes))
    small = torch.zeros(1, device=world.device)
    latency = _slowest(place, lambda: dist.all_reduce(small), _SMALL_SUMS)
    measured = {
        "devices": world.size,
        "devices_per_node": largest,
        "latency_us": 1e6 * latency,
    }
    if largest > 1:
        node, _ = dist.new_subgroups_by_enumeration(nodes)
        measured["in_node_gbps"] = _sum_rate(place, largest, node)
        dist.destroy_process_group(node)
    if len(nodes) > 1:
        measured["between_nodes_gbps"] = _sum_rate(place, world.size)
    return measured


def _sum_rate(place: Place, size: int, group: dist.ProcessGroup | None = None) -> float:
    """GB/s that a ring of `size` ranks puts on each link for a large sum."""
    large = torch.zeros(_SUM_BYTES // 4, device=place.world.device)
    seconds = _slowest(place, lambda: dist.all_reduce(large, group=group), _LARGE_SUMS)
    return 2 * (size - 1) / size * _SUM_BYTES / seconds / 1e9


def _slowest(place: Place, run: Callable[[], object], times: int) -> float:
    """Seconds that one call takes on the rank where it takes longest."""
    return max(place.together(seconds_of, run, place.world.device, times))


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
