"""A store is its folder: no link, pipe or device in it is followed, for reading or writing.

A store from elsewhere could otherwise show other files of its reader, or be written through.
"""

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
    for folder in sorted(folders):
        if (root / folder).is_symlink():
            expected = "a folder of the store"
            yield Fault(path=root / folder, found="to be a link", expected=expected, remedy=_REMEDY)
