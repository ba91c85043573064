"""Faults 1 to 14 and 16: of a store, and of those who write one."""

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from sae_dist.apps import harvest, train, verify
from sae_dist.selftest import Job
from sae_dist.store import StoreConfig, StoreWriter
from tests.harvest.tiny import contents
from tests.reliability.bench import HARVEST, TRAIN, Bench, Desk, Outcome

SHARD, OTHER = "store/rows/activations/in/c.2.0", "store/rows/activations/in/c.3.0"
METADATA = "store/rows/activations/in/zarr.json"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[9] ^= 4
    path.write_bytes(data)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def swap(path: Path) -> None:
    other = path.with_name(OTHER.rpartition("/")[2])
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def damaged_shard(damage: Callable[[Path], None]) -> Callable[[Bench], list[Outcome]]:
    """A fault that verify finds, and training where it reads."""

    def try_it(bench: Bench) -> list[Outcome]:
        desk = bench.fresh("store")
        damage(desk.folder / SHARD)
        return [desk.refused(verify.main, "store=store"), desk.refused(train.main, *TRAIN)]

    return try_it


def flipped_bit(bench: Bench) -> list[Outcome]:
    """verify names the file; two training processes both end, and soon."""
    desk = bench.fresh("store")
    flip(desk.folder / SHARD)
    before = contents(desk.folder / "store")
    outcome = desk.refused(verify.main, "store=store")
    log = desk.folder / "log"
    settings = [f"store={desk.folder / 'store'}", f"runs={desk.folder / 'runs'}", "tokens=64000"]
    others = [s for s in TRAIN if not s.startswith(("store=", "tokens="))]
    with Job("sae_dist.apps.train", settings + others, 2, log) as job:
        start = time.monotonic()
        statuses = job.wait(150)
        said = log.read_text()
        assert all(statuses), (statuses, said)
        assert time.monotonic() - start < 150 and None not in statuses
    assert contents(desk.folder / "store") == before
    return [outcome, Outcome(2, said)]


def swapped(bench: Bench) -> list[Outcome]:
    desk = bench.fresh("store")
    swap(desk.folder / SHARD)
    return [desk.refused(verify.main, "store=store")]


def leftover(bench: Bench) -> list[Outcome]:
    desk = bench.fresh("store")
    (desk.folder / f"{SHARD}.0123.partial").write_bytes(b"half")
    return [desk.run(verify.main, "store=store"), desk.run(train.main, *TRAIN)]


def harvest_killed(bench: Bench) -> list[Outcome]:
    """Another job goes on where the killed one was, to the same bytes."""
    desk = bench.fresh("lm", "text")
    with contextlib.chdir(desk.folder), Job("sae_dist.apps.harvest", [*HARVEST], 1) as job:
        commits = desk.folder / "acts" / "commits" / "units"
        assert job.wait_until(lambda: commits.is_dir() and len(os.listdir(commits)) > 2)
        job.ranks[0].kill()
        assert job.wait() == [-signal.SIGKILL]
    outcome = desk.run(harvest.main, *HARVEST)
    assert stored(desk.folder / "acts") == stored(bench.acts)
    return [outcome]


def two_jobs(bench: Bench) -> list[Outcome]:
    """A second job with the same settings finds nothing to do; with others it is refused."""
    desk = bench.fresh("lm", "text", "acts")
    outcome = desk.refused(harvest.main, *HARVEST, "writer.dtype=float16")
    assert desk.run(harvest.main, *HARVEST).status == 0
    assert stored(desk.folder / "acts") == stored(bench.acts)
    return [outcome]


def disk_full(bench: Bench) -> list[Outcome]:
    """The disk is full in the middle of a shard, and when a run's figures are written; the same
    commands go on when it is not."""
    desk, real, calls = bench.fresh("lm", "text", "store"), os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        file = os.readlink(f"/proc/self/fd/{descriptor}")
        if ("activations" in file and len(calls) > 50) or file.endswith("metrics.jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with mock.patch("os.fsync", full):
        outcomes = [desk.run(harvest.main, *HARVEST), desk.run(train.main, *TRAIN)]
    assert not list((desk.folder / "acts").rglob("*.tmp"))
    assert desk.run(harvest.main, *HARVEST).status == 0
    assert stored(desk.folder / "acts") == stored(bench.acts)
    assert "going on from" in desk.run(train.main, *TRAIN).said
    return outcomes


def unsealed(bench: Bench) -> list[Outcome]:
    desk = bench.fresh()
    StoreWriter.create(desk.folder / "store", {"in": 16}, 1, StoreConfig(), {}, 2048)
    return [desk.refused(train.main, *TRAIN)]


def metadata(*changes: dict[str, Any]) -> Callable[[Bench], list[Outcome]]:
    """A fault of zarr.json, which verify tells without much memory and no reader looks at."""

    def try_it(bench: Bench) -> list[Outcome]:
        desk = bench.fresh("store")
        path = desk.folder / METADATA
        told = json.loads(path.read_text())
        return [with_metadata(desk, json.dumps({**told, **change}).encode()) for change in changes]

    return try_it


def nested_or_no_json(bench: Bench) -> list[Outcome]:
    desk = bench.fresh("store")
    return [with_metadata(desk, data) for data in (b"[" * 2**19, b"\xff\x00 no JSON")]


def with_metadata(desk: Desk, data: bytes) -> Outcome:
    (desk.folder / METADATA).write_bytes(data)
    before = psutil.Process().memory_info().rss
    outcome = desk.refused(verify.main, "store=store")
    assert psutil.Process().memory_info().rss - before < 100e6
    return outcome


def stored(store: Path) -> dict[str, bytes]:
    """All that a reader may look at."""
    return {
        name: data for name, data in contents(store).items() if not Path(name).name.startswith(".")
    }
