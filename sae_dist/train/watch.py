"""A watch over a run's processes: one that dies or stalls ends the run on all, each with a line.

Beside training, a thread of each process publishes a *beat* a second in the launcher's key-value
store: that it lives, and how far its training loop has come. The first process looks at all beats
and every other one at the first's, so that the traffic grows as the world does, not as its square.
Who finds a fault writes it down in the store, where all find it, and each process ends itself:
one that waits in a collective cannot be asked to.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist

from sae_dist.common.errors import REQUEUE, Preempted, UserError
from sae_dist.common.log import write_error
from sae_dist.common.settings import validate
from sae_dist.parallel import World
from sae_dist.train.config import WatchConfig

_PERIOD = 1.0  # seconds between two beats
_GRACE = 2.0  # for a process that may be ending by itself, and for the store's host to be read
_HURRIED = 4.0  # of silence are enough once a collective has failed
_PATIENCE = 10.0  # of a process whose collective failed, for the fault to be found elsewhere
_SLOW = 5  # times the longest step yet is no stall
_REMEDY = "start the command again to go on from the last checkpoint"


@dataclass(slots=True)
class Beat:
    """What a process publishes: who it is, a count that shows it lives, and where its loop is.

    `mark` counts what the loop has begun, `work` is the last of it, `limit` what that may take.
    `hurried` says that a collective has failed: then somebody is likely to be gone.
    """

    host: str
    pid: int
    born: str
    work: str
    limit: float
    tick: int = 0
    mark: int = 0
    hurried: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the run ends: the line, the status, and the last beat of a process that is silent."""

    line: str
    status: int
    silent: dict[str, Any] | None = None


@dataclass(slots=True)
class _Seen:
    """A process' last beat, and since when its tick and its mark have been what they are."""

    beat: Beat
    ticked: float
    marked: float


class Watch:
    """The watch of one process; a context in which the run takes place.

    Leaving it with an exception tells all others, whose processes then end with that line. Nothing
    is started where the process is alone or the world has no store.
    """

    def __init__(self, world: World, config: WatchConfig) -> None:
        validate(config, "watch.")
        if config.stall_seconds > config.pause_seconds:
            raise UserError(
                f"watch.stall_seconds={config.stall_seconds}, watch.pause_seconds="
                f"{config.pause_seconds}; expected no shorter a pause"
            )
        self._rank, self._size, self._config = world.rank, world.size, config
        pid = os.getpid()
        self._beat = Beat(socket.gethostname(), pid, _born(pid), "start", config.pause_seconds)
        self._step_began: float | None = None
        self._steps, self._longest = 0, 0.0
        self._seen: dict[int, _Seen] = {}
        self._last_words: Fault | None = None
        self._ending = threading.Event()
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sae-watch", daemon=True)
        self._store: dist.Store | None = None
        if world.size > 1 and world.store is not None:
            self._store = dist.PrefixStore("watch", world.store.clone())  # type: ignore[attr-defined]

    def step(self, step: int) -> None:
        """Say that the loop begins a step; until it says more, that is what it is at."""
        now = time.monotonic()
        if self._step_began is not None and self._steps > 1:  # the first one compiles
            self._longest = max(self._longest, now - self._step_began)
        self._step_began, self._steps = now, self._steps + 1
        limit = max(self._config.stall_seconds, _SLOW * self._longest)
        self._mark(f"step {step}", limit if self._longest else self._config.pause_seconds)

    def pause(self, work: str) -> None:
        """Say that the loop begins something that may take long."""
        self._step_began = None
        self._mark(work, self._config.pause_seconds)

    def _mark(self, work: str, limit: float) -> None:
        self._beat.work, self._beat.limit = work, limit
        self._beat.mark += 1

    def __enter__(self) -> Self:
        if self._store is not None:
            self._store.set("fault", "null")
            self._publish()
            dist.barrier()  # from here on nobody waits for a key
            self._answered = time.monotonic()
            self._thread.start()
            threading.Thread(target=self._guard, name="sae-guard", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._store is None:
            return
        who = f"rank {self._rank} ({self._beat.host})"
        if isinstance(error, UserError):
            self._last_words = Fault(f"{who}: {error}", 2)
        elif error is not None and not isinstance(error, Preempted):
            if isinstance(error, Exception):  # perhaps only because another process has ended:
                self._beat.hurried = True
                self._thread.join(_PATIENCE)  # then this is where the process ends
            self._last_words = Fault(f"{who} failed with {type(error).__name__}: {error}", 1)
        self._ending.set()
        self._thread.join(_PATIENCE)
        if self._last_words is not None and self._rank == 0:
            time.sleep(_GRACE)  # without a launcher the store ends with this process

    def _run(self) -> None:
        """The thread: a round a second, until a fault is found or the process ends by itself."""
        while not self._ending.wait(_PERIOD):
            try:
                fault = self._round()
            except dist.DistError as error:
                fault = _store_is_gone(str(error))
            self._answered = time.monotonic()
            if fault is not None:
                self._end(fault)
        with suppress(dist.DistError):  # the store's host may have ended already
            self._publish_end()

    def _guard(self) -> None:
        """A second thread, since the first one waits for ever where the store's host is silent."""
        while not self._ending.wait(_PERIOD):
            silent = time.monotonic() - self._answered
            if silent > self._config.stall_seconds:
                self._end(_store_is_gone(f"silent for {silent:.0f} s"))

    def _round(self) -> Fault | None:
        """Publish, look, judge: the fault that there is, known to all from now on."""
        assert self._store is not None
        self._publish()
        watched = range(self._size) if self._rank == 0 else (0,)
        found, *beats = self._store.multi_get(["fault", *map(str, watched)])
        if known := json.loads(found):
            return Fault(**known)
        for rank, beat in zip(watched, beats, strict=True):
            self._see(rank, Beat(**json.loads(beat)))
        fault = self._silence() or (self._stall() if self._rank == 0 else None)
        if fault is not None:
            self._write_down(fault)
        return fault

    def _see(self, rank: int, beat: Beat) -> None:
        now = time.monotonic()
        seen = self._seen.setdefault(rank, _Seen(beat, now, now))
        if beat.tick != seen.beat.tick:
            seen.ticked = now
        if beat.mark != seen.beat.mark:
            seen.marked = now
        seen.beat = beat

    def _silence(self) -> Fault | None:
        """A process that gives no sign of life."""
        is_hurried = self._beat.hurried or any(seen.beat.hurried for seen in self._seen.values())
        limit = self._config.stall_seconds
        limit = min(limit, _HURRIED) if is_hurried else limit
        for rank, seen in self._seen.items():
            beat, silent = seen.beat, time.monotonic() - seen.ticked
            if silent > limit and not beat.ended:
                who = f"rank {rank} of {self._size} ({beat.host}, process {beat.pid})"
                line = f"{who} has given no sign of life for {silent:.0f} s, at {beat.work}"
                return Fault(f"{line}; {_REMEDY}", REQUEUE, asdict(beat))
        return None

    def _stall(self) -> Fault | None:
        """The processes furthest behind, if all of them take too long; others may wait for them."""
        now, running = time.monotonic(), {r: s for r, s in self._seen.items() if not s.beat.ended}
        least = min((seen.beat.mark for seen in running.values()), default=0)
        behind = {rank: seen for rank, seen in running.items() if seen.beat.mark == least}
        if not behind or any(now - seen.marked <= seen.beat.limit for seen in behind.values()):
            return None
        ranks = ", ".join(f"{rank} ({seen.beat.host})" for rank, seen in sorted(behind.items()))
        first = next(iter(behind.values()))
        line = f"no progress for {now - first.marked:.0f} s at {first.beat.work}, on rank {ranks}"
        return Fault(f"{line}; {_REMEDY}", REQUEUE)

    def _end(self, fault: Fault) -> None:
        """End this process, unless it is about to end by itself, with a line of its own."""
        if fault.silent is not None:
            _kill(fault.silent)
        if self._beat.hurried:
            time.sleep(_GRACE)
        elif self._ending.wait(_GRACE):
            return
        write_error(fault.line)
        sys.stdout.flush()
        os._exit(fault.status)

    def _publish(self) -> None:
        assert self._store is not None
        self._beat.tick += 1
        self._store.set(str(self._rank), json.dumps(asdict(self._beat)))

    def _publish_end(self) -> None:
        if self._last_words is not None:
            self._write_down(self._last_words)
        else:
            self._beat.ended = True
        self._publish()

    def _write_down(self, fault: Fault) -> None:
        """Let all find a fault; the first one stays."""
        assert self._store is not None
        self._store.compare_set("fault", "null", json.dumps(asdict(fault)))


def _store_is_gone(why: str) -> Fault:
    host = os.environ.get("MASTER_ADDR", "the first host")
    line = f"the run's store on {host} does not answer ({why}): rank 0 or its launcher has ended"
    return Fault(f"{line}; {_REMEDY}", REQUEUE)


def _kill(process: dict[str, Any]) -> None:
    """End a silent process of this host: it may be stopped, and its launcher would wait for it."""
    pid = process["pid"]
    if process["host"] == socket.gethostname() and process["born"] == _born(pid) != "":
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _born(pid: int) -> str:
    """When a process of this host began, in ticks since boot; "" where that is not known.

    With it a number that was given to another process meanwhile is not taken for the same.
    """
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
