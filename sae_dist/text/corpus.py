"""Where text comes from: the Hub, local files, or the library that Python itself ships with."""

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.text.config import STDLIB, TextConfig

_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}
_SUFFIXES = (".txt", *_BUILDERS)
_STDLIB_LEFT_OUT = frozenset(
    "site-packages dist-packages test tests idle_test idlelib lib2to3 encodings turtledemo".split()
)


def documents(config: TextConfig) -> Iterator[str]:
    """Yield the corpus' documents in a fixed order, empty ones left out.

    Raises UserError, at once or while reading, for a path, data set or column that is missing, for
    files that cannot be read as what they claim to be, and for a corpus without any text.
    """
    if config.path == STDLIB:
        return _some(_stdlib(), config)
    path = Path(config.path).expanduser()
    if path.exists():
        return _some(_local(_files(path), config), config)
    if _looks_local(config.path):
        raise UserError(
            f"found no {path}; expected a text file or folder; correct text.path "
            f"(or use `{STDLIB}`, the embedded corpus)"
        )
    return _some(_hub(config), config)


def pin(config: TextConfig) -> TextConfig:
    """The same corpus for ever: a Hub data set's revision becomes the commit it means today.

    Any other corpus comes back as it is. Raises UserError if the Hub does not know the data set.
    """
    is_local = Path(config.path).expanduser().exists() or _looks_local(config.path)
    if is_local or config.path == STDLIB:
        return config
    try:
        commit = huggingface_hub.HfApi().dataset_info(config.path, revision=config.revision).sha
    except Exception as error:  # the network's own errors differ between versions of the Hub
        raise _unreadable(config, error) from error
    return replace(config, revision=commit)


def _looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or Path(path).suffix in _SUFFIXES


def _some(texts: Iterable[str | None], config: TextConfig) -> Iterator[str]:
    is_empty = True
    for text in texts:
        if text:
            is_empty = False
            yield text
    if is_empty:
        raise UserError(
            f"found no text in {config.path}; expected at least one document; correct text.path"
        )


def _stdlib() -> Iterator[str]:
    """In a fixed pseudo-random order, so that any prefix is a fair sample."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        path
        for path in root.rglob("*.py")
        if _STDLIB_LEFT_OUT.isdisjoint(path.relative_to(root).parts)
    )
    for index in generator(0, "stdlib").permutation(len(paths)):
        try:
            yield paths[index].read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a handful of modules predate UTF-8
            continue


def _files(path: Path) -> list[Path]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in found if file.suffix in _SUFFIXES and file.is_file()]
    if not files:
        raise UserError(
            f"found no {', '.join(_SUFFIXES)} file in {path}; expected at least one; "
            "correct text.path or convert the files"
        )
    return files


def _local(files: list[Path], config: TextConfig) -> Iterator[str | None]:
    for suffix, group in groupby(files, key=lambda file: file.suffix):
        if suffix == ".txt":
            yield from (_read(file) for file in group)
        else:
            paths = [str(file) for file in group]
            yield from _column(config, _BUILDERS[suffix], data_files=paths, split="train")


def _read(file: Path) -> str:
    """A text file as it is, line ends included."""
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"found {file} not in UTF-8 ({error}); expected UTF-8; convert it"
        ) from error


def _hub(config: TextConfig) -> Iterator[str | None]:
    return _column(
        config, config.path, name=config.subset, split=config.split, revision=config.revision
    )


def _column(config: TextConfig, source: str, **options: Any) -> Iterator[str | None]:
    """The text of a data set, streamed; whatever goes wrong in there is told in one line."""
    try:
        for row in datasets.load_dataset(source, streaming=True, **options):
            if config.column not in row:
                raise _no_text(config, f"no column `{config.column}`, only {sorted(row)}")
            text = row[config.column]
            if not isinstance(text, str | None):
                raise _no_text(config, f"{type(text).__name__} in column `{config.column}`")
            yield text
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise _unreadable(config, error) from error


def _no_text(config: TextConfig, found: str) -> UserError:
    return UserError(f"found {found} in {config.path}; expected strings; set text.column")


def _unreadable(config: TextConfig, error: Exception) -> UserError:
    cause = error.__cause__ or error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return UserError(
        f"found {config.path} unreadable ({reason}); expected `{STDLIB}`, a local .txt, .jsonl or "
        ".parquet file or folder, or a Hub data set with that subset, split and revision; "
        "correct text.path"
    )
