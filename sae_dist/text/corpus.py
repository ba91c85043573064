"""Where text comes from: the Hub, local files, or the library that Python itself ships with."""

import sysconfig
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.text.config import STDLIB, TextConfig
from sae_dist.text.document import Document, NoDocumentError, as_document
from sae_dist.text.files import find_files, is_saved
from sae_dist.text.formats import Values, format_of, place_of, read_values

_STDLIB_LEFT_OUT = frozenset(
    "site-packages dist-packages test tests idle_test idlelib lib2to3 encodings turtledemo".split()
)
_BUFFER_BYTES = 1 << 20
_Place = tuple[str, Values]


def documents(config: TextConfig) -> Generator[Document]:
    """Yield the corpus' documents in a fixed order, empty ones left out.

    A document is a string; from a column of conversations it is a list of messages, from one of
    token ids an int32 array. No other column is looked at. Raises UserError, at once or while
    reading, for a path, data set or column that is missing, for files that cannot be read as what
    they claim to be, and for a corpus without any text.
    """
    if config.path == STDLIB:
        return _some(_stdlib(), config)
    path = Path(config.path).expanduser()
    if path.exists():
        return _some(_documents(_local(find_files(path), config), config), config)
    if _looks_local(config.path):
        raise UserError(
            f"found no {path}; expected a text file or folder; correct text.path "
            f"(or use `{STDLIB}`, the embedded corpus)"
        )
    return _some(_documents(_hub(config), config), config)


def texts(config: TextConfig) -> Iterator[str]:
    """The documents of a corpus of strings; raises UserError for others, too."""
    for document in documents(config):
        if not isinstance(document, str):
            raise UserError(
                f"found messages or token ids in column `{config.column}` of {config.path}; "
                "expected strings; set text.column"
            )
        yield document


def pin(config: TextConfig) -> TextConfig:
    """The same corpus for ever: a Hub data set without a commit gets what its revision means today.

    Any other corpus comes back as it is. Raises UserError if the Hub does not know the data set.
    """
    is_local = Path(config.path).expanduser().exists() or _looks_local(config.path)
    if is_local or config.path == STDLIB or config.commit is not None:
        return config
    from sae_dist.text.hub import commit_of

    return replace(config, commit=commit_of(config))


def _looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or format_of(path) is not None


def _some(found: Iterable[Document], config: TextConfig) -> Generator[Document]:
    is_empty = True
    for document in found:
        is_empty = False
        yield document
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
            text = paths[index].read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a handful of modules predate UTF-8
            continue
        if text:
            yield text


def _documents(places: Iterable[_Place], config: TextConfig) -> Iterator[Document]:
    for name, values in places:
        for number, value in values:
            try:
                document = as_document(value)
            except NoDocumentError as error:
                found, _, expected = str(error).partition("; ")
                raise UserError(
                    f"found {found} in column `{config.column}` of {name}, "
                    f"{place_of(name, number)}; {expected}; mend it or set text.column"
                ) from error
            if document is not None:
                yield document


def _local(files: list[Path], config: TextConfig) -> Iterator[_Place]:
    for path in files:
        if is_saved(path):
            from sae_dist.text.hub import saved_values

            yield str(path), saved_values(path, config)
            continue
        with _open(path) as file:
            yield str(path), read_values(file, str(path), config.column)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise UserError(
            f"found {path} unreadable ({error.strerror}); expected a file; mend it"
        ) from error


def _hub(config: TextConfig) -> Iterator[_Place]:
    from sae_dist.text.hub import hub_values

    return hub_values(config)
