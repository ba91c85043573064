"""Data sets of the Hub, and those that `datasets` saved in a folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub

from sae_dist.common.errors import UserError
from sae_dist.text import formats
from sae_dist.text.config import STDLIB, TextConfig
from sae_dist.text.formats import Placed, Values

_OWN_READERS = ("json", "parquet")  # what `datasets` calls them; with csv it takes options


def hub_values(config: TextConfig) -> Placed:
    """The values of the column in a Hub data set, streamed.

    Files that we read ourselves are read column by column (`sae_dist.text.formats`): `datasets`
    demands that the other columns, too, be of one type. The rest goes through it.
    """
    with _told_in_one_line(config):
        builder = datasets.load_dataset_builder(
            config.path, name=config.subset, revision=config.commit or config.revision
        )
        files = (builder.config.data_files or {}).get(config.split, [])
        is_ours = builder.name in _OWN_READERS and not getattr(builder.config, "field", None)
        if not (is_ours and files and all(map(formats.is_text, files))):
            stream = builder.as_streaming_dataset(config.split)
            yield from formats.placed(_streamed(stream, config.column), config.path)
            return
        for url in files:
            system, path = fsspec.core.url_to_fs(url)
            yield from formats.read_values(partial(system.open, path, "rb"), url, config.column)


def saved_values(folder: Path, config: TextConfig) -> Placed:
    """The values of the column in a folder that `datasets` saved, which is mapped into memory."""
    with _told_in_one_line(config):
        found = datasets.load_from_disk(str(folder))
        if isinstance(found, datasets.DatasetDict):
            if config.split not in found:
                raise UserError(
                    f"found no split `{config.split}` in {folder}, only {sorted(found)}; expected "
                    "one of them; set text.split"
                )
            found = found[config.split]
        yield from formats.placed(_saved(found, config.column), str(folder))


def commit_of(config: TextConfig) -> str:
    """The commit that a data set's revision means today."""
    with _told_in_one_line(config):
        hub = huggingface_hub.HfApi()
        return str(hub.dataset_info(config.path, revision=config.revision).sha)


def _saved(data: datasets.Dataset, column: str) -> Values:
    formats.require_column(column, data.column_names, 1)
    batches = data.select_columns([column]).with_format("arrow").iter(formats.BATCH_ROWS)
    yield from formats.arrow_values(batches, column)


def _streamed(rows: Iterable[dict[str, Any]], column: str) -> Values:
    for number, row in enumerate(rows, 1):
        formats.require_column(column, row, number)
        yield number, row[column]


@contextmanager
def _told_in_one_line(config: TextConfig) -> Iterator[None]:
    """Whatever goes wrong in a data set becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the network's own differ between versions of the Hub
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise UserError(
            f"found {config.path} unreadable ({reason}); expected `{STDLIB}`, a local file or "
            "folder, or a Hub data set with that subset, split and revision; correct text.path"
        ) from error
