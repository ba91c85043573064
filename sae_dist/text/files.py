"""Which files of a folder are text, in a fixed order."""

import os
from collections.abc import Iterator
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.text.formats import FORMATS, is_text

# What `datasets` writes beside data, and does not read as data either
_NO_TEXT = frozenset("config.json dataset_info.json dataset_infos.json dataset_dict.json".split())


def find_files(path: Path) -> list[Path]:
    """The text files of a folder, and the folders in it that `datasets` saved; or the one given.

    The order is that of the parts of their paths, everywhere. Names are names, whatever they hold;
    hidden files and folders are left out; links are followed, and what can be reached by several
    ways is taken once, by the first. Raises UserError if there is none.
    """
    if not path.is_dir():
        if not is_text(path.name):
            raise UserError(f"found {path}; expected {FORMATS}; convert it or correct text.path")
        return [path]
    files = list(_walk(path, set()))
    if not files:
        raise UserError(
            f"found no text in {path}; expected at least one file {FORMATS}; correct text.path or "
            "convert the files"
        )
    return files


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def _walk(path: Path, seen: set[str]) -> Iterator[Path]:
    """What is text at `path` or below it, depth first, and not `seen` yet."""
    real = os.path.realpath(path)
    if real in seen:
        return
    if not path.is_dir():
        if path.name not in _NO_TEXT and is_text(path.name) and path.is_file():
            seen.add(real)
            yield path
        return
    seen.add(real)
    if is_saved(path):
        yield path
        return
    for name in sorted(os.listdir(path)):
        if not name.startswith("."):
            yield from _walk(path / name, seen)
