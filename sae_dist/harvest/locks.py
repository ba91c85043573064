"""Who works on what: a file for each piece of work that is taken, with a sign of life.

Locks save double work and decide nothing: a unit belongs to whoever links its commit first. So a
lock may be taken from a process that only seemed dead, and nothing breaks.
"""

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Self

from sae_dist.common.files import claim, to_json
from sae_dist.common.log import warn

LOCKS = "locks"
_BEATS = 6  # signs of life before a silence counts


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, as others can look for it; `boot` and `namespace` are empty where unknown."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    job: str

    @classmethod
    def this_process(cls) -> Self:
        """The process that asks."""
        boot, namespace = "", ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = os.readlink("/proc/self/ns/pid")
        job = os.environ.get("SLURM_JOB_ID", "")
        pid = os.getpid()
        return cls(socket.gethostname(), boot, namespace, pid, _started(pid) or 0, job)

    def is_gone(self, seen_by: "Owner") -> bool:
        """Whether it surely runs no more; False for processes that `seen_by` cannot see."""
        where = (self.host, self.boot, self.namespace)
        if not self.boot or where != (seen_by.host, seen_by.boot, seen_by.namespace):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            pass
        return _started(self.pid) not in (None, self.started)

    def __str__(self) -> str:
        job = f" of job {self.job}" if self.job else ""
        return f"process {self.pid}{job} on {self.host}"


class Locks:
    """The locks that this process holds in a folder, kept alive by a thread; a context manager.

    A lock is free again once its process is gone, if it ran on this machine, or has given no sign
    of life for `silence` seconds by the clock of the file server. It is not taken away then: the
    next of its name (`00007.json`, `00007.1.json`, …) counts in its place, and of several that
    find it free, the one that creates that file gets it. Locks held at the end are given back.
    """

    def __init__(self, folder: Path, silence: float) -> None:
        self._folder, self._silence = folder, silence
        self._me = Owner.this_process()
        self._held: dict[str, tuple[Path, int]] = {}  # files, and descriptors to touch them by
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="locks", daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._heart.join()
        self.keep(set())

    def take(self, name: str) -> bool:
        """Take a lock if it is free; False for one that this process holds already."""
        try:
            if name in self._held:
                return False
            newest, following = self._newest(name)
            why = "" if newest is None else self._why_stale(newest)
            if why is None or not claim(following, to_json(asdict(self._me))):
                return False
            descriptor = os.open(following, os.O_RDONLY)
        except FileNotFoundError:  # the store was sealed, and the folder removed
            return False
        if newest is not None:
            warn(f"{why}; its lock {newest.name} is taken over")
        with self._guard:
            self._held[name] = following, descriptor
        return True

    def keep(self, names: set[str]) -> None:
        """Give back all locks but these, and with each the stale ones that it was taken after."""
        for name in self._held.keys() - names:
            with self._guard:
                path, descriptor = self._held.pop(name)
            with suppress(FileNotFoundError):
                newest, _ = self._newest(name)
                if newest == path and os.path.samestat(os.fstat(descriptor), path.stat()):
                    for older in self._files(name):
                        older.unlink(missing_ok=True)
                        if older == path:
                            break
            os.close(descriptor)

    def owner(self, name: str) -> Owner | None:
        """Who holds a lock; None when nobody does."""
        newest, _ = self._newest(name)
        with suppress(OSError, ValueError, TypeError):
            if newest is not None:
                return Owner(**json.loads(newest.read_bytes()))
        return None

    def remove_all(self) -> None:
        """Remove the folder, once there is nothing left to be done by anyone."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self, name: str) -> Iterator[Path]:
        """What the locks of a name are called, one taken after the other."""
        return (self._folder / f"{name}{f'.{n}' if n else ''}.json" for n in count())

    def _newest(self, name: str) -> tuple[Path | None, Path]:
        """The lock that counts, if there is one, and the one that may be taken after it."""
        newest = None
        for path in self._files(name):
            if not path.exists():
                break
            newest = path
        return newest, path

    def _why_stale(self, path: Path) -> str | None:
        """What became of a lock's process; None while it lives, or has just given the lock back."""
        try:
            with open(path, "rb") as file:  # what is opened is asked of the server, not of a cache
                data, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            owner = Owner(**json.loads(data))
        except (ValueError, TypeError):
            owner = None
        if owner is not None and owner.is_gone(self._me):
            return f"{owner} is gone"
        if (silent := self._now() - touched) > self._silence:
            return f"{owner or 'a process'} gave no sign for {silent:.0f} s"
        return None

    def _now(self) -> float:
        """The file server's time: hosts' clocks may differ."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime

    def _beat(self) -> None:
        while not self._end.wait(self._silence / _BEATS):
            with self._guard:
                for _, descriptor in self._held.values():
                    with suppress(OSError):  # the server is not there
                        os.utime(descriptor)


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; -1 for one that has ended (a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(fields[18])
