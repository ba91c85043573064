"""A store is its folder: no link, pipe or device in it is followed, for reading or writing.

A store from elsewhere could otherwise show other files of its reader, or be written through.
"""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_REMEDY = "copy the store with what its links point to (cp -rL)"


def file_problem(path: Path) -> str | None:
    """Why `path` is not a file of a store. Raises FileNotFoundError."""
    if stat.S_ISREG(path.lstat().st_mode):
        return None
    kind = "a link" if path.is_symlink() else "no plain file"
    return f"found {path} to be {kind}; expected a file inside the store; {_REMEDY}"


def folder_problems(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """Folders on the way to `paths`, inside the store, that are links."""
    folders = {parent for path in paths for parent in (Path(path), *Path(path).parents[:-1])}
    for folder in sorted(folders):
        if (root / folder).is_symlink():
            yield f"found {root / folder} to be a link; expected a folder of the store; {_REMEDY}"
