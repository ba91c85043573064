"""Data sets of the Hub, and those that `datasets` saved in a folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub
from datasets.exceptions import DatasetsError

from sae_dist.common.errors import UserError
from sae_dist.text.config import STDLIB, TextConfig
from sae_dist.text.formats import (
    Placed,
    Values,
    arrow_values,
    is_text,
    placed,
    read_values,
    require_column,
)

_OWN_READERS = ("json", "parquet")  # what `datasets` calls them; with csv it takes options
_BATCH_ROWS = 1024


def hub_values(config: TextConfig) -> Placed:
    """The values of the column in a Hub data set, streamed.

    Files that we read ourselves are read column by column (`sae_dist.text.formats`): `datasets`
    demands that the other columns, too, be of one type. The rest goes through it.
    """
    with told_in_one_line(config):
        builder = datasets.load_dataset_builder(
            config.path, name=config.subset, revision=config.commit or config.revision
        )
        files = (builder.config.data_files or {}).get(config.split, [])
        is_ours = builder.name in _OWN_READERS and not getattr(builder.config, "field", None)
        if not (is_ours and files and all(map(is_text, files))):
            stream = builder.as_streaming_dataset(config.split)
            yield from placed(_streamed(stream, config.column), config.path)
            return
        for url in files:
            system, path = fsspec.core.url_to_fs(url)
            yield from read_values(partial(system.open, path, "rb"), url, config.column)


def saved_values(folder: Path, config: TextConfig) -> Placed:
    """The values of the column in a folder that `datasets` saved, which is mapped into memory."""
    with told_in_one_line(config):
        found = datasets.load_from_disk(str(folder))
        if isinstance(found, datasets.DatasetDict):
            if config.split not in found:
                raise UserError(
                    f"found no split `{config.split}` in {folder}, only {sorted(found)}; expected "
                    "one of them; set text.split"
                )
            found = found[config.split]
        yield from placed(_saved(found, config.column), str(folder))


def commit_of(config: TextConfig) -> str:
    """The commit that a data set's revision means today."""
    try:
        commit = huggingface_hub.HfApi().dataset_info(config.path, revision=config.revision).sha
    except Exception as error:  # the network's own errors differ between versions of the Hub
        raise _unreadable(config, error) from error
    return str(commit)


def _saved(data: datasets.Dataset, column: str) -> Values:
    require_column(column, data.column_names, 1)
    batches = data.select_columns([column]).with_format("arrow").iter(_BATCH_ROWS)
    yield from arrow_values(batches, column)


def _streamed(rows: Iterable[dict[str, Any]], column: str) -> Values:
    for number, row in enumerate(rows, 1):
        require_column(column, row, number)
        yield number, row[column]


@contextmanager
def told_in_one_line(config: TextConfig) -> Iterator[None]:
    """Whatever goes wrong in a data set becomes a UserError."""
    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        raise _unreadable(config, error) from error


def _unreadable(config: TextConfig, error: Exception) -> UserError:
    cause = error.__cause__ or error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return UserError(
        f"found {config.path} unreadable ({reason}); expected `{STDLIB}`, a local file or folder, "
        "or a Hub data set with that subset, split and revision; correct text.path"
    )
