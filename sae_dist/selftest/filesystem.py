"""What stores and runs rely on a filesystem for, asked of theirs by all ranks at once.

Every rank races with a few threads, so that even one alone is not without rivals.
"""

import fcntl
import os
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sae_dist.common.files import create_exclusive, write_atomic
from sae_dist.selftest.check import Found, Place

_THREADS, _RACES, _REWRITES, _FSYNCS = 4, 20, 100, 20
_LEAST_FREE_GB = 1.0
_SECONDS_TO_SEE, _SECONDS_TO_SYNC = 60.0, 1.0
_SIZES = (1 << 12, 1 << 18)
_SYNC_BYTES = 1 << 22


def claims(place: Place) -> Found:
    """Of all that claim a name by os.link, one gets it, and its bytes are there."""
    names = [place.folder / f"claim.{race}" for race in range(_RACES)]

    def claim_all(rival: str) -> list[tuple[str, str]]:
        return [(p.name, rival) for p in names if create_exclusive(p, rival.encode())]

    def race() -> list[tuple[str, str]]:
        with ThreadPoolExecutor(_THREADS) as pool:
            rivals = [f"{place.world.rank}.{thread}" for thread in range(_THREADS)]
            return [won for mine in pool.map(claim_all, rivals) for won in mine]

    won = [claim for mine in place.together(race) for claim in mine]
    held = place.first(lambda: [(p.name, p.read_text()) for p in names])
    text = f"{_THREADS * place.world.size} rivals, {_RACES} names, {len(won)} owners"
    return Found(text, sorted(won) == sorted(held))


def locks(place: Place) -> Found:
    """A file that one process has locked is refused to all others, and free when it is closed."""
    path = place.folder / "locked"
    place.first(path.touch)
    with open(path, "r+b") as file:
        place.first(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        during = place.together(lambda: place.world.rank == 0 or _can_lock(path))
        place.first(file.close)
    after = place.together(lambda: place.world.rank != 0 or _can_lock(path))
    text = f"granted to {sum(during)} of {place.world.size} ranks"
    return Found(text, sum(during) == 1 and all(after))


def renames(place: Place) -> Found:
    """While a file is replaced, every reader finds the old one or the new one, whole."""
    path = place.folder / "renamed"
    place.first(write_atomic, path, b"0" * _SIZES[0])

    def rewrite_or_read() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as reader:
            torn = reader.submit(_reads, path)
            if place.world.rank == 0:
                for turn in range(_REWRITES):
                    write_atomic(path, str(turn % 10).encode() * _SIZES[turn % 2])
            return torn.result()

    counts = place.together(rewrite_or_read)
    reads, torn = (sum(column) for column in zip(*counts, strict=True))
    return Found(f"{_REWRITES} renames, {reads} reads, {torn} torn or missing", torn == 0)


def visibility(place: Place) -> Found:
    """A file that one rank has written is soon seen by all."""
    path = place.folder / "seen"
    place.together(path.exists)  # so that a client may remember that it was not there
    place.first(write_atomic, path, b"here")
    seconds = max(place.together(_seconds_until, path.exists))
    return Found(f"{seconds:.2f} s", seconds < _SECONDS_TO_SEE)


def syncs(place: Place) -> Found:
    """fsync of small files does not take long; large ones tell the rate of writing."""
    path = place.folder / f"sync.{place.world.rank}"
    measured = place.together(_sync_rate, path)
    slow = max(latency for latency, _ in measured)
    rate = sum(rate for _, rate in measured)
    text = f"{1e3 * slow:.1f} ms (median, slowest rank); {rate / 1e6:.0f} MB/s, all ranks"
    return Found(text, slow < _SECONDS_TO_SYNC)


def space(place: Place) -> Found:
    """There is room for what follows."""
    free = min(place.together(lambda: shutil.disk_usage(place.folder).free)) / 1e9
    return Found(f"{free:.1f} GB free", free >= _LEAST_FREE_GB)


def _can_lock(path: Path) -> bool:
    with open(path, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _reads(path: Path) -> tuple[int, int]:
    """(reads, those that were neither of the two sizes, or of several turns, or of no file)."""
    torn = 0
    for _ in range(_REWRITES):
        try:
            data = path.read_bytes()
        except OSError:
            torn += 1
            continue
        torn += len(data) not in _SIZES or len(set(data)) != 1
    return _REWRITES, torn


def _seconds_until(condition: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not condition() and time.monotonic() - start < _SECONDS_TO_SEE:
        time.sleep(0.005)
    return time.monotonic() - start


def _sync_rate(path: Path) -> tuple[float, float]:
    """(median seconds of a small file's write and fsync, bytes a second of large ones)."""
    seconds = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            start = time.monotonic()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            seconds.append(time.monotonic() - start)
        start = time.monotonic()
        for _ in range(_FSYNCS // 4):
            file.write(bytes(_SYNC_BYTES))
        os.fsync(file.fileno())
        rate = _FSYNCS // 4 * _SYNC_BYTES / (time.monotonic() - start)
    path.unlink()
    return statistics.median(seconds), rate
