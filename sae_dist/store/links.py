"""A store is its folder: no link, pipe or device in it is followed, for reading or writing.

A store from elsewhere could otherwise show other files of its reader, or be written through.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from sae_dist.store.fault import Fault

_REMEDY = "copy the store with what its links point to (cp -rL)"


def odd_file(path: Path) -> Fault | None:
    """Why `path` is not a file of a store. Raises FileNotFoundError."""
    if stat.S_ISREG(path.lstat().st_mode):
        return None
    kind = "to be a link" if path.is_symlink() else "to be no plain file"
    return Fault(path=path, found=kind, expected="a file inside the store", remedy=_REMEDY)


def linked_folders(root: Path, paths: Iterable[str]) -> Iterator[Fault]:
    """Folders on the way to `paths`, inside the store, that are links."""
    folders = {parent for path in paths for parent in (Path(path), *Path(path).parents[:-1])}
    return (_link(root / folder) for folder in sorted(folders) if (root / folder).is_symlink())


def all_linked_folders(root: Path) -> Iterator[Fault]:
    """Folders anywhere in the store that are links; none of them is looked into."""
    for folder, names, _ in os.walk(root):
        paths = (Path(folder, name) for name in sorted(names))
        yield from (_link(path) for path in paths if path.is_symlink())


def _link(path: Path) -> Fault:
    found, expected = "to be a link", "a folder of the store"
    return Fault(path=path, found=found, expected=expected, remedy=_REMEDY)
