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
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
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
    of life for `silence` seconds by the clock of the file server. Of several that find it free, one
    gets it. Locks held at the end are given back.
    """

    def __init__(self, folder: Path, silence: float) -> None:
        self._folder, self._silence = folder, silence
        self._me = Owner.this_process()
        self._held: dict[str, int] = {}  # descriptors: a lock that was taken away is left alone
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
        path = self._path(name)
        try:
            if name in self._held or not self._is_free(path):
                return False
            if not claim(path, to_json(asdict(self._me))):
                return False
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # the store was sealed, and the folder removed
            return False
        with self._guard:
            self._held[name] = descriptor
        return True

    def keep(self, names: set[str]) -> None:
        """Give back all locks but these."""
        for name in self._held.keys() - names:
            with self._guard:
                descriptor = self._held.pop(name)
            path = self._path(name)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    path.unlink()
            os.close(descriptor)

    def owner(self, name: str) -> Owner | None:
        """Who holds a lock; None when nobody does."""
        with suppress(OSError, ValueError, TypeError):
            return Owner(**json.loads(self._path(name).read_bytes()))
        return None

    def remove_all(self) -> None:
        """Remove the folder, once there is nothing left to be done by anyone."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _is_free(self, path: Path) -> bool:
        """Whether there is no such lock, or no longer."""
        try:
            with open(path, "rb") as file:  # what is opened is asked of the server, not of a cache
                data, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return True
        try:
            owner = Owner(**json.loads(data))
        except (ValueError, TypeError):
            owner = None
        if owner is not None and owner.is_gone(self._me):
            why = "is gone"
        elif (silent := self._now() - touched) > self._silence:
            why = f"gave no sign for {silent:.0f} s"
        else:
            return False
        if not self._take_away(path, data):
            return False
        warn(f"{owner or 'a process'} {why}; its lock {path.name} is taken over")
        return True

    def _take_away(self, path: Path, data: bytes) -> bool:
        """Rename a lock: of several that try, one succeeds. A newer one is put back."""
        away = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.rename(away)
            found = away.read_bytes()
            if found != data:
                with suppress(FileExistsError):
                    os.link(away, path)
            away.unlink()
        except FileNotFoundError:
            return False
        return found == data

    def _now(self) -> float:
        """The file server's time: hosts' clocks may differ."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime

    def _beat(self) -> None:
        while not self._end.wait(self._silence / _BEATS):
            with self._guard:
                for descriptor in self._held.values():
                    with suppress(OSError):  # it was taken away, or the server is not there
                        os.utime(descriptor)


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; -1 for one that has ended (a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(fields[18])
