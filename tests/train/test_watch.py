"""The watch's judgement, with four watches of one process and a clock of our own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.train import Watch, WatchConfig
from sae_dist.train.watch import _PERIOD, _born, _kill

CONFIG = WatchConfig(stall_seconds=10.0, pause_seconds=100.0)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sae_dist.train.watch.time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def watches(clock: Clock, tmp_path: Path) -> list[Watch]:
    """Four processes' watches over one store, after three steps of a second; no threads."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    device = torch.device("cpu")
    watches = [Watch(World(rank, 4, device, store), CONFIG) for rank in range(4)]
    watches[0]._store.set("fault", "null")
    for watch in watches:
        watch._publish()
    for step in range(4):
        for watch in watches:
            watch.step(step)
        clock.now += 1
        assert rounds(watches) == [None] * 4
    return watches


def rounds(watches: list[Watch], silent: int | None = None) -> list[str | None]:
    """What each watch finds, rank 0 last (so that all others have published)."""
    faults = [watch._round() for watch in reversed(watches) if watch._rank != silent]
    return [fault.line if fault else None for fault in faults]


def pass_seconds(watches: list[Watch], clock: Clock, seconds: int, silent: int | None = None):
    for _ in range(seconds):
        clock.now += 1
        found = rounds(watches, silent)
        if any(found):
            return found
    return found


def test_a_silent_process_is_named_to_all(watches: list[Watch], clock: Clock) -> None:
    assert not any(pass_seconds(watches, clock, 9, silent=2))
    assert "rank 2 of 4" in (pass_seconds(watches, clock, 2, silent=2)[-1] or "")
    everyone = rounds(watches, silent=2)
    assert len(set(everyone)) == 1
    assert "has given no sign of life for" in everyone[0] and "at step 3" in everyone[0]
    assert "start the command again" in everyone[0]


def test_less_silence_will_do_once_a_collective_has_failed_anywhere(
    watches: list[Watch], clock: Clock
) -> None:
    watches[1]._beat.hurried = True
    assert not any(pass_seconds(watches, clock, 3, silent=2))
    assert "rank 2 of 4" in (pass_seconds(watches, clock, 2, silent=2)[-1] or "")


def test_a_silent_first_process_is_named_by_the_others(watches: list[Watch], clock: Clock) -> None:
    assert not any(pass_seconds(watches, clock, 9, silent=0))
    assert all("rank 0 of 4" in line for line in pass_seconds(watches, clock, 3, silent=0))


def test_who_sleeps_below_the_limit_does_no_harm(watches: list[Watch], clock: Clock) -> None:
    assert not any(pass_seconds(watches, clock, 8, silent=1))
    assert not any(pass_seconds(watches, clock, 1))
    for watch in watches:
        watch.step(4)
    assert not any(rounds(watches))
    assert not any(pass_seconds(watches, clock, 9, silent=3))


def test_the_process_that_holds_up_the_others_is_named(watches: list[Watch], clock: Clock) -> None:
    for watch in watches:
        if watch._rank != 3:
            watch.step(4)
    found = pass_seconds(watches, clock, 60)[-1] or ""
    assert "no progress for" in found and "at step 3, on rank 3 (" in found


def test_a_step_may_take_five_times_the_longest_yet(watches: list[Watch], clock: Clock) -> None:
    for step in (4, 5):
        for watch in watches:
            watch.step(step)
        assert not any(pass_seconds(watches, clock, 9))
    assert not any(pass_seconds(watches, clock, 35))
    assert "no progress" in (pass_seconds(watches, clock, 10)[-1] or "")


def test_a_pause_is_no_stall_and_has_an_end(watches: list[Watch], clock: Clock) -> None:
    for watch in watches[1:]:
        watch.step(4)
    watches[0].pause("saving step 4")
    watches[0]._beat.mark -= 1  # it is behind: the others wait for it
    assert not any(pass_seconds(watches, clock, 95))
    assert "at saving step 4, on rank 0" in (pass_seconds(watches, clock, 10)[-1] or "")


def test_a_process_that_has_ended_is_not_missed(watches: list[Watch], clock: Clock) -> None:
    for watch in watches[1:]:
        watch._publish_end()
    watches[0].pause("writing the coders")
    clock.now += 60
    assert watches[0]._round() is None


def test_a_users_mistake_on_one_process_is_told_to_all(watches: list[Watch]) -> None:
    watch = watches[1]
    watch._thread.start()
    watch.__exit__(UserError, UserError("chunk 3 is damaged"), None)
    for other in watches[2:]:
        fault = other._round()
        assert fault is not None and fault.status == 2
        assert fault.line.startswith("rank 1 (") and fault.line.endswith("chunk 3 is damaged")


def test_the_first_process_stays_until_the_others_have_read_why_it_ends(
    watches: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def sleep(seconds: float) -> None:
        faults = [watch._round() for watch in watches[1:]]
        read.append((seconds, [fault.status for fault in faults if fault]))

    monkeypatch.setattr("sae_dist.train.watch.time.sleep", sleep)
    for watch in (watches[0], watches[1]):  # the store may be in the first one's memory
        watch._thread.start()
        watch.__exit__(UserError, UserError("chunk 3 is damaged"), None)
    assert read == [(2 * _PERIOD, [2, 2, 2])]


def test_only_the_very_process_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        about = {"host": os.uname().nodename, "pid": child.pid, "born": _born(child.pid)}
        try:
            _kill({**about, "born": "1"})
            _kill({**about, "host": "elsewhere"})
            assert child.poll() is None
            _kill(about)
            assert child.wait(timeout=60) == -9
        finally:
            child.kill()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 200.0])
def test_limits_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(UserError, match="watch.stall_seconds"):
        Watch(
            World(0, 1, torch.device("cpu")),
            WatchConfig(stall_seconds=seconds, pause_seconds=100.0),
        )
