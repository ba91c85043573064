"""Chunks of a store that lies far away, kept on a disk of this node for all of its processes.

An epoch reads every chunk once, so that dropping the one read longest ago would drop what is next:
a store that has filled its room keeps what it has. What goes is other stores, the one opened
longest ago first, and none that a process has open. Nothing here needs to be whole: what is read is
compared with the store's checksums.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import numpy as np

from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.files import crc32c
from sae_dist.common.log import warn

_FOLDER = "sae_dist_chunks"  # in the one that is given, which may hold anything else
_TOTAL = "TOTAL"  # the bytes of all stores; who changes it has it locked
_IN_USE = "IN_USE"  # of a store; locked by its readers


class ChunkCache:
    """The chunks of one store in a folder where all stores together take `max_bytes` at most.

    Raises UserError where the folder cannot be written. When it is full, or its disk is, nothing is
    added.
    """

    def __init__(self, folder: Path, max_bytes: int, store: str) -> None:
        """`store` is the store's hash."""
        self._root, self._max_bytes = folder / _FOLDER, max_bytes
        self._folder = self._root / store
        self._is_full = False
        with explain_disk_errors(folder):
            self._root.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._folder.mkdir(exist_ok=True)
                self._in_use = open(self._folder / _IN_USE, "wb")  # noqa: SIM115 - until this goes
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
                os.utime(self._folder / _IN_USE)

    def read_into(self, name: str, out: np.ndarray, expected: int) -> bool:
        """Fill `out` (uint8 [n]) by a chunk; False if none is there whose CRC-32C is `expected`."""
        path = self._folder / name
        try:
            with open(path, "rb", buffering=0) as file:
                if file.readinto(out.data) == out.nbytes and crc32c(out) == expected:
                    return True
            path.unlink(missing_ok=True)
        except OSError:
            pass
        return False

    def put(self, name: str, data: np.ndarray) -> None:
        """Keep a chunk (uint8 [n]) if there is room, one after the other on a node."""
        path = self._folder / name
        try:
            if not self._is_full:
                with self._locked() as file:
                    self._is_full = not path.exists() and not self._reserve(file, data.nbytes)
                    if not self._is_full:
                        temporary = path.with_name(f"{name}.tmp")
                        temporary.write_bytes(data.data)
                        os.replace(temporary, path)
        except OSError as error:
            self._is_full = True
            warn(f"no more chunks are kept in {self._root}: {error.strerror}")

    def _reserve(self, file: BufferedRandom, num_bytes: int) -> bool:
        """Count what will be written in the locked `file`, if there is room for it."""
        total = int(file.read() or 0)
        if total + num_bytes > self._max_bytes:
            total = self._make_room(num_bytes)
        fits = total + num_bytes <= self._max_bytes
        file.seek(0)
        file.truncate()
        file.write(b"%d" % (total + num_bytes * fits))
        file.flush()
        return fits

    def _make_room(self, num_bytes: int) -> int:
        """Remove other stores that nobody reads, as far as it takes; the bytes that are left."""
        folders = [p for p in self._root.iterdir() if re.fullmatch("[0-9a-f]{64}", p.name)]
        sizes = {p: sum(file.stat().st_size for file in p.iterdir()) for p in folders}
        for folder in sorted(folders, key=lambda p: (p / _IN_USE).stat().st_mtime):
            if sum(sizes.values()) + num_bytes <= self._max_bytes:
                break
            with open(folder / _IN_USE, "rb") as in_use:
                try:
                    fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(folder)
                del sizes[folder]
        return sum(sizes.values())

    @contextmanager
    def _locked(self) -> Iterator[BufferedRandom]:
        """The file with the total, for one thread of one process at a time."""
        descriptor = os.open(self._root / _TOTAL, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
