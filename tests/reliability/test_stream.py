"""What the stream promises: order, resuming, threads, memory, damage, shuffling."""

import gc
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.shuffling import (
    Rows,
    batch_index,
    distinct_share,
    documents,
    expected_distinct,
    layout_of,
    share,
)
from sae_dist.common.errors import UserError
from sae_dist.store import Store, open_store, write_store
from sae_dist.store.layout import Layout
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig, TokenOrder

POSITIONS, NUM_SEQUENCES, BATCH = 16, 1024, 64
CONFIG = StreamConfig(bucket_tokens=64 * BATCH, read_threads=2, batches_ahead=3)
BUCKET_CHUNKS = 64 * BATCH // 205 + 1  # of some 205 rows in the mean
MARGIN = 2**20  # beyond `memory_bound`: futures, Python's own objects


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 55 chunks of 256 rows in 16 shards of 64 sequences, one of them held out.

    Every fifth token is not trained on and is NaN.
    """
    dice = torch.Generator().manual_seed(0)
    trainable = torch.arange(NUM_SEQUENCES * POSITIONS).reshape(NUM_SEQUENCES, POSITIONS) % 5 != 0
    wide = torch.randn(NUM_SEQUENCES, POSITIONS, 96, generator=dice)
    wide[~trainable] = torch.nan
    chunk_mib = 16 * POSITIONS * (96 + 32) * 2 / 2**20
    ids = torch.randint(50_000, (NUM_SEQUENCES, POSITIONS), generator=dice)
    return write_store(
        tmp_path_factory.mktemp("reliable") / "store",
        {"wide": wide, "narrow": wide[..., :32] * 2},
        input_ids=ids,
        trainable=trainable,
        held_out=0.0625,
        chunk_mib=1.01 * chunk_mib,
        shard_mib=4.1 * chunk_mib,
    ).path


@pytest.fixture
def store(path: Path) -> Store:
    return open_store(path)


def stream(
    store: Store, sites: list[str], rank: int = 0, world: int = 1, step: int = 0
) -> ActivationStream:
    part = BatchPart(BATCH, 5, CONFIG, rank, world, step, with_index=True)
    return ActivationStream(store, sites, part)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sae-")]


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Any:
    yield
    assert own_threads() == []


@pytest.fixture
def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(site, chunk) of every read, each of which takes 5 ms at least."""
    real, done = store.read_rows_into, []

    def slow(site: str, chunk: int, out: np.ndarray) -> None:
        done.append((site, chunk))
        time.sleep(0.005)
        real(site, chunk, out)

    monkeypatch.setattr(store, "read_rows_into", slow)
    return done


@pytest.mark.parametrize("sites", [["wide"], ["narrow", "wide"]])
def test_every_world_gives_the_same_token_ids_beyond_an_epoch(
    store: Store, sites: list[str]
) -> None:
    ids = store.read_tokens(range(NUM_SEQUENCES))[0].ravel()
    epoch = stream(store, sites).tokens_per_epoch // BATCH
    start, found = epoch - 6, {}
    for world in (1, 3, 6, 48):
        parts = []
        for rank in range(world):
            with stream(store, sites, rank, world, start) as batches:
                taken = [batch for batch, _ in islice(batches, 12)]
            assert all(bool(x.isfinite().all()) for batch in taken for x in batch.acts.values())
            parts.append(np.stack([batch.index.numpy() for batch in taken]))
        found[world] = ids[np.concatenate(parts, axis=1)]
    assert found[1].shape == (12, BATCH) and len(np.unique(found[1])) > 600
    for world in (3, 6, 48):
        assert np.array_equal(found[world], found[1])


def test_a_start_at_step_one_million_reads_no_more_than_a_start_at_the_first(
    store: Store, reads: list[tuple[str, int]]
) -> None:
    for step in (0, 10**6):
        reads.clear()
        with stream(store, ["wide"], step=step) as batches:
            _, state = next(iter(batches))
        assert state.step == step + 1
        assert len(reads) <= 2 * (BUCKET_CHUNKS + 2)  # two buckets


def test_what_is_not_read_yet_waits_while_the_consumer_does(
    store: Store, reads: list[tuple[str, int]]
) -> None:
    with stream(store, ["wide", "narrow"]) as batches:
        next(iter(batches))
        before = -1
        while before != (before := len(reads)):
            time.sleep(0.2)
        assert before <= 2 * 2 * (BUCKET_CHUNKS + 2)


def used_up(batches: ActivationStream, reads: list) -> None:
    with batches:
        assert len(list(islice(batches, 9))) == 9


def consumer_raises(batches: ActivationStream, reads: list) -> None:
    with pytest.raises(ZeroDivisionError), batches:
        for _ in batches:
            raise ZeroDivisionError


def dropped(batches: ActivationStream, reads: list) -> None:
    iterator = iter(batches)
    next(iterator)
    del iterator, batches
    gc.collect()


def reader_raises(batches: ActivationStream, reads: list) -> None:
    batches._store.read_rows_into = _fail  # type: ignore[method-assign]
    with pytest.raises(UserError, match="chunk .* damaged"):
        next(iter(batches))
    with pytest.raises(UserError, match="chunk .* damaged"):  # asked again, told again
        next(iter(batches))


def _fail(site: str, chunk: int, out: np.ndarray) -> None:
    raise UserError(f"chunk {chunk} damaged")


def closed_while_a_read_is_blocked(batches: ActivationStream, reads: list) -> None:
    disk, blocked = threading.Event(), threading.Event()

    def hang(site: str, chunk: int, out: np.ndarray) -> None:
        blocked.set()
        disk.wait(30)

    batches._store.read_rows_into = hang  # type: ignore[method-assign]
    consumer = threading.Thread(target=lambda: list(batches))
    consumer.start()
    assert blocked.wait(30)
    threading.Timer(0.2, disk.set).start()
    batches.close()
    consumer.join()


@pytest.mark.parametrize(
    "ending",
    [used_up, consumer_raises, dropped, reader_raises, closed_while_a_read_is_blocked],
)
def test_threads_end_however_the_stream_does(
    store: Store, reads: list, ending: Callable[[ActivationStream, list], None]
) -> None:
    ending(stream(store, ["wide", "narrow"]), reads)
    gc.collect()
    assert own_threads() == []


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("sites", [["wide"], ["wide", "narrow"]])
def test_memory_stays_under_the_bound(store: Store, sites: list[str], world: int) -> None:
    source = stream(store, sites, world - 1, world)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with source as batches:
            for number, (_, state) in enumerate(batches):
                if number % 64 == 0:
                    time.sleep(0.05)  # the reader could go on
                if state.epoch == 2:
                    break
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    print(f"\n{world=} {sites}: grown by {grown:,} bytes, bound {source.memory_bound:,}")
    assert 0.5 * source.memory_bound < grown <= source.memory_bound + MARGIN


PROCESS = """
import json, sys, time, numpy as np, psutil, torch
from sae_dist.store import open_store, write_store
from sae_dist.stream import ActivationStream, BatchPart, StreamConfig
x = torch.randn(512, 64, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
write_store("s", {"a": x, "b": x[..., :256]}, held_out=0.0, chunk_mib=0.4, shard_mib=8.0)
del x
config = StreamConfig(bucket_tokens=8192)
source = ActivationStream(open_store("s"), ["a", "b"], BatchPart(128, 0, config))
resident = psutil.Process().memory_info
before = most = resident().rss
for number, (batch, state) in enumerate(source):
    time.sleep(0.2 * (number % 100 == 1))
    most = max(most, resident().rss)
    if state.epoch == 2:
        break
print(json.dumps({"grown": most - before, "bound": source.memory_bound}), flush=True)
"""


def test_a_process_with_a_slow_consumer_stays_under_the_bound_and_ends(tmp_path: Path) -> None:
    """Resident memory; the iteration is left as it is when the process ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"\nresident memory grown by {found['grown']:,} bytes, bound {found['bound']:,}")
    assert found["grown"] <= found["bound"] + 16 * 2**20  # threads' stacks and allocators' reserves


@pytest.mark.parametrize("site", ["wide", "narrow"])
def test_a_damaged_chunk_is_named_with_its_file(path: Path, store: Store, site: str) -> None:
    file = path / "rows" / "activations" / site / "c.5.0"
    whole = file.read_bytes()
    file.write_bytes(whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:])
    chunk = int(np.searchsorted(store.unit_of_chunk, 5))
    try:
        with (
            pytest.raises(
                UserError, match=rf"{file} with chunk {chunk} damaged \(crc32c .* instead of"
            ),
            stream(store, ["wide", "narrow"]) as batches,
        ):
            list(islice(batches, 1000))
    finally:
        file.write_bytes(whole)


def test_a_missing_shard_is_named_with_its_chunk(path: Path, store: Store) -> None:
    file = path / "rows" / "activations" / "wide" / "c.6.0"
    away = file.rename(path / "away")
    try:
        with (
            pytest.raises(UserError, match=rf"{file} with chunk \d+ damaged .*No such file"),
            stream(store, ["wide"]) as batches,
        ):
            list(islice(batches, 1000))
    finally:
        away.rename(file)


LAYOUT = Layout(
    num_sequences=77, sequence_length=24, shard_sequences=20, chunk_sequences=10, chunk_rows=40
)


def test_distinct_documents_are_counted_as_by_hand() -> None:
    rows = Rows(LAYOUT)
    order = TokenOrder(rows.of_chunk, rows.unit_of_chunk, 64, 640, seed=1)
    starts = documents(17, 77 * 24)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    steps = range(order.steps_in_epoch)
    batches = [batch_index(order, rows, step) for step in steps]
    assert len(np.unique(batches)) == len(steps) * 64  # an epoch gives a token at most once
    assert np.max(batches) < 77 * 24
    by_hand = np.mean([len(set(owner[b])) for b in batches]) / expected_distinct(starts, 64)
    assert distinct_share(order, rows, starts, steps) == pytest.approx(by_hand)


def test_a_full_permutations_distinct_documents_are_those_of_many_draws() -> None:
    starts = documents(17, 77 * 24)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    dice = np.random.default_rng(2)
    drawn = [len(set(owner[dice.permutation(len(owner))[:64]])) for _ in range(2000)]
    assert expected_distinct(starts, 64) == pytest.approx(np.mean(drawn), rel=0.005)
    assert expected_distinct(np.arange(101), 64) == pytest.approx(64)
    assert expected_distinct(starts, len(owner)) == pytest.approx(len(starts) - 1)


@pytest.mark.parametrize(("width", "batch"), [(512, 4096), (2304, 4096), (512, 32768)])
def test_at_the_defaults_documents_are_mixed_as_a_permutation_does(width: int, batch: int) -> None:
    """Documents of 600 tokens on average: within 2 %."""
    found = share(layout_of(width, tokens=8_000_000), 600, None, batch)
    print(f"\nwidth {width}, batches of {batch:,}: {found:.3f}")
    assert 0.98 <= found < 1.02
