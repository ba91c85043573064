"""Harvests that share a store, are killed, or run out of disk: nothing is torn, lost or doubled."""

import errno
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sae_dist.common import files
from sae_dist.common.errors import UserError
from sae_dist.harvest import Processes
from sae_dist.parallel import World
from sae_dist.store import StoreConfig, StoreWriter, verify
from tests.harvest.tiny import contents, tiny_harvest, tiny_writer, with_tokens
from tests.processes import run_on, start
from tests.reliability.jobs import committed, job, passes, torn, wait_until
from tests.reliability.small_disk import remount, small_disk

NUM_PASSES, NUM_UNITS = 15, 8


class Stopped(Exception):
    """The harvest is interrupted here."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed harvest by one process leaves."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(job, folder / "store", folder / "log")
    process.join(600)
    assert process.exitcode == 0 and passes(folder / "log") == NUM_PASSES
    return contents(folder / "store")


def test_two_jobs_fill_one_store_and_hardly_a_unit_twice(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    jobs = [start(job, store, log, 0.1) for _ in range(2)]
    for process in jobs:
        process.join(600)
    assert [process.exitcode for process in jobs] == [0, 0]
    assert NUM_PASSES <= passes(log) < 2 * NUM_PASSES
    assert contents(store) == expected


def test_what_a_job_keeps_for_itself_too_long_another_harvests(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    slow = start(job, store, log, 600.0)
    wait_until(lambda: log.exists() and passes(log) == 1)
    other = start(job, store, log)
    other.join(600)
    assert other.exitcode == 0 and slow.is_alive()
    assert contents(store) == expected
    slow.kill()
    slow.join()


UNITS, WIDTH, POSITIONS = 50, 8, 4


def racing_writer(path: Path) -> StoreWriter:
    sequence = POSITIONS * WIDTH * 2 / 2**20
    config = StoreConfig(chunk_mib=1.5 * sequence, shard_mib=2.5 * sequence)
    return StoreWriter.create(path, {"site": WIDTH}, POSITIONS, config, {}, 2 * UNITS)


def fill(path: Path, mine: range) -> list[int]:
    """The units that this process committed, of those in `mine`."""
    writer = racing_writer(path)
    won = []
    for unit in mine:
        x_NSD = np.full((2, POSITIONS, WIDTH), unit, np.uint16)
        if writer.write_unit(unit, {"site": x_NSD}):
            won.append(unit)
    return won


def race(world: World, path: Path) -> list[int]:
    dist.barrier()
    return fill(path, range(UNITS))


def test_eight_processes_race_for_fifty_units_and_each_is_committed_once(tmp_path: Path) -> None:
    ids_NS, trainable_NS = np.zeros((2, POSITIONS), np.int32), np.ones((2, POSITIONS), bool)
    for name in ("raced", "serial"):
        writer = racing_writer(tmp_path / name)
        for unit in range(UNITS):
            writer.put_tokens(unit, ids_NS, trainable_NS, None)
        writer.end_tokens(2 * UNITS, {})
    won = run_on(8, race, tmp_path / "raced")
    print(f"won by each of 8: {[len(units) for units in won]}")
    assert sorted(itertools.chain(*won)) == list(range(UNITS))
    fill(tmp_path / "serial", range(UNITS))
    for name in ("raced", "serial"):
        racing_writer(tmp_path / name).seal()
    assert contents(tmp_path / "raced") == contents(tmp_path / "serial")


def harvest_on(world: World, path: Path, most: int | None) -> int:
    """Harvest as one of a world; stopped after `most` passes; the number of passes."""
    seen: list[int] = []

    def note(ids_NS: Tensor) -> None:
        if len(seen) == most:
            raise Stopped
        seen.append(1)

    processes = Processes(world.rank, world.size, torch.device("cpu"), store=world.store)
    try:
        tiny_harvest(path, processes=processes, seen=note)
    except Stopped:
        assert most is not None
    return len(seen)


def test_the_number_of_processes_may_change_between_runs(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    store = tmp_path / "store"
    with_tokens(tiny_writer(store))
    assert run_on(3, harvest_on, store, 3) == [3, 3, 3]
    done = committed(store)  # of two passes each, but the last unit
    assert 3 <= len(done) <= 4
    last = int(NUM_UNITS - 1 in done)
    assert sum(run_on(2, harvest_on, store, None)) == NUM_PASSES - 2 * len(done) + last
    assert contents(store) == expected


@pytest.mark.parametrize("num_writes", [0, 4, 17, 18, 19, 61])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, num_writes: int
) -> None:
    store, left = tmp_path / "store", itertools.count(num_writes, -1)

    def full(descriptor: int) -> None:  # where a delayed write is refused
        if next(left) <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError) as caught:
        tiny_harvest(store)
    monkeypatch.undo()
    line = str(caught.value)
    assert line.startswith("No space left on device for ") and "\n" not in line
    assert "GB free; expected " in line and "start the same command again" in line
    assert half_written(store) <= set(committed(store)) and not torn(store)
    tiny_harvest(store)
    assert contents(store).keys() == expected.keys() and verify(store, full=True) == []


def half_written(store: Path) -> set[int]:
    """Units whose files have not got their names yet: those of a committed one still may."""
    return {int(file.name.split(".")[2]) for file in store.rglob(".c.*.tmp")}


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of so many KiB; a whole store takes more than 200 in pages of 4."""
    with small_disk(tmp_path / "disk", request.param) as folder:
        yield folder


@pytest.mark.parametrize("disk", [48, 160], indirect=True, ids=["tokens", "shards"])
def test_a_disk_that_is_filled_is_told_and_the_same_command_goes_on(
    disk: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_dist.harvest.harvest.check_disk", lambda path, num_bytes: None)
    store = disk / "store"
    with pytest.raises(UserError, match="No space left on device for .*; free some and start"):
        tiny_harvest(store)
    assert half_written(store) <= set(committed(store)) and not torn(store)
    assert len(committed(store)) < NUM_UNITS and not (store / "MANIFEST.json").exists()
    remount(disk, "size=1m")
    tiny_harvest(store)
    assert contents(store).keys() == expected.keys() and verify(store, full=True) == []


def test_leftovers_are_removed_with_a_warning(
    tmp_path: Path, expected: dict[str, bytes], capsys: pytest.CaptureFixture
) -> None:
    store = tmp_path / "store"
    tiny_writer(store)
    for name in ("rows/activations/mlp_in.1/c.0.0.1f.partial", "rows/index/.c.1.1f.tmp"):
        (store / name).write_bytes(b"half")
    tiny_harvest(store)
    assert "warning: 2 leftover files of killed writers removed" in capsys.readouterr().err
    assert contents(store).keys() == expected.keys()


def kill_often(folder: Path, kills: int, expected: dict[str, bytes]) -> dict[str, Any]:
    """SIGKILL one of two harvesting processes again and again, at seeded random moments.

    Every other one comes soon after a commit, so that the store grows on slow machines too. After
    every kill each committed unit is held to its checksums, and another process takes the killed
    one's place. A store that is done is compared with `expected`, and the next one begun.
    """
    random, num_kills, num_torn, num_units = np.random.default_rng(0), 0, 0, 0
    begin = time.monotonic()
    (folder / "log").touch()
    for turn in itertools.count():
        store, log = folder / f"store-{turn}", folder / "log"
        jobs = [start(job, store, log, 0.1) for _ in range(2)]
        while num_kills < kills and any(process.is_alive() for process in jobs):
            which = int(random.integers(2))
            wait_until(lambda: f"began {jobs[which].pid}\n" in log.read_text())  # noqa: B023
            if num_kills % 2:
                before = len(committed(store))
                wait_until(lambda: len(committed(store)) > before or not jobs[which].is_alive())  # noqa: B023
            time.sleep(random.uniform(0.0, 0.3 / (1 + num_kills % 2)))
            jobs[which].kill()
            jobs[which].join()
            if jobs[which].exitcode == -signal.SIGKILL:  # it had not ended by itself
                num_kills += 1
                num_torn += len(torn(store))
                num_units += len(committed(store))
                jobs[which] = start(job, store, log, 0.1)
        for process in jobs:
            process.join(600)
            assert process.exitcode == 0, log.read_text()[-2000:]
        found = contents(store)
        assert found == expected
        print(f"{num_kills} kills, {turn + 1} stores, {num_units} units checked", flush=True)
        if num_kills >= kills:
            break
    seconds = time.monotonic() - begin
    return {"kills": num_kills, "stores": turn + 1, "units checked": num_units, "torn": num_torn,
            "seconds": round(seconds)}  # fmt: skip


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_no_torn_shard_is_ever_visible(
    tmp_path: Path, expected: dict[str, bytes], kills: int
) -> None:
    figures = kill_often(tmp_path, kills, expected)
    print(figures)
    assert figures["kills"] == kills and figures["torn"] == 0
    assert figures["units checked"] > kills // 2  # so many came after a commit
