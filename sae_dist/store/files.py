"""All access to a store's files, by names relative to it: a local folder, or an object store.

A store is its folder: no link, pipe or device in it is followed, for reading or writing. A store
from elsewhere could otherwise show other files of its reader, or be written through.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import create_exclusive, fsync_path, write_atomic, write_new

_NO_FOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would keep its opener waiting


class Fault(UserError):
    """A file that is not what it should be: what was found, what was expected, what to do."""

    def __init__(
        self,
        path: Path | str,
        found: str,
        expected: str = "the bytes that were committed",
        remedy: str = "restore it, or let sae-dist verify mend it with repair=true",
    ) -> None:
        super().__init__(f"found {path} {found}; expected {expected}; {remedy}")
        self.path, self.found, self.expected = path, found, expected


class Files:
    """The files in a folder of a disk; what a store asks of the place it lies in.

    Names are relative, with "/" between folders. Missing files raise FileNotFoundError, links and
    what is no plain file Fault, anything else that fails OSError.
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
        with self._opened(name) as descriptor:
            return os.fstat(descriptor).st_size

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self._opened(name) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return file.read()

    def read_into(self, name: str, offset: int, out: np.ndarray) -> None:
        """Fill `out` (uint8 [n]) from a place in a file on. Raises OSError if it ends before."""
        done = 0
        with self._opened(name) as descriptor:
            while done < out.nbytes:
                count = os.preadv(descriptor, [out[done:].data], offset + done)
                if count == 0:
                    raise OSError("file too short")
                done += count

    def create(self, name: str, data: bytes) -> bool:
        """Create a file unless it exists; of many that try exactly one gets True."""
        return create_exclusive(self._root / name, data)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file; a crash leaves the old one or the new one.

        Names that others in its folder were given before survive a crash, too.
        """
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
        (self._root / name).unlink(missing_ok=True)

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make folders in which files will be. Raises Fault for one that is a link."""
        names, made = _with_parents(folders), set()
        self.check_folders(names)
        self._root.mkdir(parents=True, exist_ok=True)
        for path in (self._root / name for name in names if name):
            if not path.is_dir():
                path.mkdir(exist_ok=True)
                made.add(path.parent)
        for path in made:
            fsync_path(path)

    def check_folders(self, folders: Iterable[str]) -> None:
        """Raise Fault for the first of these folders (or one they are in) that is a link."""
        for name in _with_parents(folders):
            if name and (self._root / name).is_symlink():
                raise _odd(self._root / name, "to be a link")

    def remove_folders(self, folders: Iterable[str]) -> None:
        """Remove those of these folders, and of those they are in, that are empty."""
        for name in reversed(_with_parents(folders)):
            with suppress(OSError):
                (self._root / name).rmdir()

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        path = self._root / name
        try:
            descriptor = os.open(path, _NO_FOLLOW)
        except OSError as error:
            if path.is_symlink():
                raise _odd(path, "to be a link") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _odd(path, "to be no plain file")
            yield descriptor
        finally:
            os.close(descriptor)


def _with_parents(folders: Iterable[str]) -> list[str]:
    """These folders and all that they are in, outer ones first; the store's own is "" ."""
    paths = {parent for name in folders for parent in (Path(name), *Path(name).parents)}
    return sorted("" if path == Path() else str(path) for path in paths)


def _odd(path: Path, found: str) -> Fault:
    remedy = "copy the store with what its links point to (cp -rL)"
    return Fault(path, found, "a file or folder of the store", remedy)


def is_leftover(name: str) -> bool:
    """Whether a file is what a killed writer left."""
    return (name.startswith(".") and name.endswith(".tmp")) or name.endswith(".partial")


def files_at(path: str | Path) -> Files:
    """What reaches the files of the store at a path, or at the URL of an object store."""
    if "://" not in str(path):
        return Files(Path(path))
    try:
        from sae_dist.store.objects import ObjectFiles
    except ImportError as error:
        raise UserError(
            f"found {path} and no obstore; expected it for object stores; install it "
            "(pip install 'sae-dist[objects]')"
        ) from error
    return ObjectFiles(str(path))
