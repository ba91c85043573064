"""Where text comes from: the Hub, local files, packages, or the library that Python ships with."""

import sysconfig
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.text.config import PUBLIC_DOMAIN, STDLIB, TextConfig
from sae_dist.text.document import Document, NoDocumentError, as_document
from sae_dist.text.files import find_files, is_saved
from sae_dist.text.formats import Placed, is_text, read_values
from sae_dist.text.public_domain import public_domain

_STDLIB_LEFT_OUT = frozenset(
    "site-packages dist-packages test tests idle_test idlelib lib2to3 encodings turtledemo".split()
)
_BUFFER_BYTES = 1 << 20


def documents(config: TextConfig) -> Generator[Document]:
    """Yield the corpus' documents in a fixed order, empty ones left out.

    A document is a string; from a column of conversations it is a list of messages, from one of
    token ids an int32 array. No other column is looked at. Raises UserError, at once or while
    reading, for a path, data set or column that is missing, for files that cannot be read as what
    they claim to be, and for a corpus without any text.
    """
    path = Path(config.path).expanduser()
    if config.path == STDLIB:
        return _some((text for _, text in stdlib_modules()), config)
    if config.path == PUBLIC_DOMAIN:
        return _some(public_domain(), config)
    if path.exists():
        values = _local(find_files(path), config)
    elif _looks_local(config.path):
        raise UserError(
            f"found no {path}; expected a text file or folder; correct text.path "
            f"(or use `{STDLIB}`, the embedded corpus)"
        )
    else:
        from sae_dist.text.hub import hub_values

        values = hub_values(config)
    return _some(_documents(values, config), config)


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
    if is_local or config.path in (STDLIB, PUBLIC_DOMAIN) or config.commit is not None:
        return config
    from sae_dist.text.hub import commit_of

    return replace(config, commit=commit_of(config))


def _looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or is_text(path)


def _some(found: Iterable[Document], config: TextConfig) -> Generator[Document]:
    is_empty = True
    for document in found:
        is_empty = False
        yield document
    if is_empty:
        raise UserError(
            f"found no text in {config.path}; expected at least one document; correct text.path"
        )


def stdlib_modules() -> Iterator[tuple[str, str]]:
    """Name (`asyncio/events.py`) and source of the library's modules, without its tests.

    They come in a fixed pseudo-random order, so that any prefix is a fair sample.
    """
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
            yield paths[index].relative_to(root).as_posix(), text


def _documents(values: Placed, config: TextConfig) -> Iterator[Document]:
    for place, value in values:
        try:
            document = as_document(value)
        except NoDocumentError as error:
            raise UserError(
                f"found {error} in column `{config.column}` of {place}; expected {error.expected}; "
                "mend it or set text.column"
            ) from error
        if document is not None:
            yield document


def _local(files: list[Path], config: TextConfig) -> Placed:
    for path in files:
        if is_saved(path):
            from sae_dist.text.hub import saved_values

            yield from saved_values(path, config)
        else:
            open_file = partial(open, path, "rb", buffering=_BUFFER_BYTES)
            yield from read_values(open_file, str(path), config.column)
