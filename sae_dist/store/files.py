"""All access to a store's files, by names relative to it: a local folder, or an object store.

A store is its folder: no link, pipe or device in it is followed, for reading or writing. A store
from elsewhere could otherwise show other files of its reader, or be written through.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import create_exclusive, fsync_path, write_atomic, write_new

REMEDY = "restore it, or let sae-dist verify mend it with repair=true"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A file that is not what it should be: what was found, what was expected, what to do.

    `unit` is the one whose activations or tokens it holds, if it holds any.
    """

    path: Path | str
    found: str
    expected: str
    remedy: str = REMEDY
    unit: int | None = None

    def __str__(self) -> str:
        return f"found {self.path} {self.found}; expected {self.expected}; {self.remedy}"


class FaultError(UserError):
    """A fault that keeps the reader from going on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


_REMEDY = "copy the store with what its links point to (cp -rL)"
_NO_FOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would keep its opener waiting


class TooShortError(Exception):
    """A file ends before the bytes that were asked for."""


class Files:
    """The files in a folder of a disk; what a store asks of the place it lies in.

    Names are relative, with "/" between folders. Missing files raise FileNotFoundError, links and
    what is no plain file FaultError, anything else that fails OSError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, name: str = "") -> Path | str:
        """Where a file is, for the user."""
        return self._root / name if name else self._root

    def exists(self, name: str) -> bool:
        """Whether there is such a file, of any kind."""
        return os.path.lexists(self._root / name)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        descriptor = self._open(name)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read(self, name: str) -> bytes:
        """A whole file."""
        with os.fdopen(self._open(name), "rb") as file:
            return file.read()

    def read_into(self, name: str, offset: int, out: np.ndarray) -> None:
        """Fill `out` (uint8 [n]) from a place in a file on. Raises TooShortError."""
        descriptor, done = self._open(name), 0
        try:
            while done < out.nbytes:
                count = os.preadv(descriptor, [out[done:].data], offset + done)
                if count == 0:
                    raise TooShortError("file too short")
                done += count
        finally:
            os.close(descriptor)

    def create(self, name: str, data: bytes) -> bool:
        """Create a file unless it exists; of many that try exactly one gets True."""
        return create_exclusive(self._root / name, data)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file; a crash leaves the old one or the new one."""
        write_atomic(self._root / name, data)

    def write_parts(self, name: str, parts: Iterable[memoryview]) -> None:
        """Write a large new file, whose name is the caller's own."""
        write_new(self._root / name, parts)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, in the place of what has that name."""
        os.replace(self._root / source, self._root / target)

    def list(self, folder: str) -> list[str]:
        """Names of the files in a folder, in order; none where there is no such folder."""
        try:
            return sorted(os.listdir(self._root / folder))
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = self._root / name
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make folders in which files will be. Raises FaultError for one that is a link."""
        names = list(folders)
        self.check_folders(names)
        made = set()
        for name in names:
            path = self._root / name
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                made |= {path.parent, *path.parent.parents}
        for path in made:
            if path == self._root or self._root in path.parents:
                fsync_path(path)

    def sync(self, folder: str) -> None:
        """Have the names in a folder survive a crash."""
        fsync_path(self._root / folder)

    def check_folders(self, folders: Iterable[str]) -> None:
        """Raise FaultError for the first of these folders (or one they are in) that is a link."""
        every = {parent for name in folders for parent in (Path(name), *Path(name).parents[:-1])}
        for name in sorted(every):
            if (self._root / name).is_symlink():
                raise FaultError(_odd(self._root / name, "to be a link"))

    def _open(self, name: str) -> int:
        path = self._root / name
        try:
            descriptor = os.open(path, _NO_FOLLOW)
        except OSError as error:
            if path.is_symlink():
                raise FaultError(_odd(path, "to be a link")) from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FaultError(_odd(path, "to be no plain file"))
        return descriptor


def _odd(path: Path, found: str) -> Fault:
    expected = "a file or folder of the store"
    return Fault(path=path, found=found, expected=expected, remedy=_REMEDY)
