"""One unit's shard files: laid out, summed, checked and written at once.

A byte is passed over five times: it is copied into its chunk, which is then summed for its own
CRC-32C and its file's CRC-32 and written while it is still in a core's cache, and two other threads
look at all values meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_all
from sae_dist.store.arrays import INPUT_IDS, TRAINABLE, array_specs, shard_parts
from sae_dist.store.checksum import crc32_on
from sae_dist.store.config import NonFinite
from sae_dist.store.dropped import Dropped, drop, without
from sae_dist.store.eight_bits import as_stored
from sae_dist.store.schema import FileRecord, Settings, ShardCommit
from sae_dist.store.statistics import Statistics, norms_of, statistics_of


class _ShardFile:
    """The bytes of a shard file, passed on part after part; `record` is there after the last."""

    record: FileRecord

    def __init__(self, parts: Iterable[tuple[memoryview, int]]) -> None:
        """`parts` as `shard_parts` gives them: chunks and an index, each with its CRC-32C."""
        self._parts = parts

    def __iter__(self) -> Iterator[memoryview]:
        num_bytes = crc32 = 0
        checks: list[str] = []
        for data, crc32c in self._parts:
            for part in (data, memoryview(crc32c.to_bytes(4, "little"))):
                num_bytes, crc32 = num_bytes + part.nbytes, crc32_on(crc32, part)
                yield part
            checks.append(f"{crc32c:08x}")
        self.record = FileRecord(
            bytes=num_bytes, crc32=f"{crc32:08x}", chunk_crc32c="".join(checks[:-1])
        )


def write_tokens(
    root: Path,
    settings: Settings,
    unit: int,
    ids: np.ndarray,
    trainable: np.ndarray,
    expected: Mapping[str, FileRecord] | None = None,
) -> dict[str, FileRecord]:
    """Write the two files of tokens of one unit; return their records by path.

    Raises UserError, and changes no file, when the records are not the `expected` ones.
    """
    shape = (len(ids), settings.sequence_length)
    found = [(array.shape, array.dtype.name) for array in (ids, trainable)]
    if found != [(shape, "int32"), (shape, "bool")]:
        raise UserError(
            f"found input_ids {found[0]} and trainable {found[1]}; expected int32 and bool of "
            f"{shape}; pack the tokens to the store's sequence length"
        )
    files = dict(_files(settings, unit, {INPUT_IDS: ids, TRAINABLE: trainable}))

    def require_expected() -> None:
        for path, file in files.items():
            if expected is not None and expected[path] != file.record:
                raise UserError(
                    f"found another text: {root / path} comes out with crc32 {file.record.crc32}; "
                    f"expected {expected[path].crc32}; give the text that was harvested with "
                    "text_path=…"
                )

    write_all(((root / path, file) for path, file in files.items()), require_expected)
    return {path: file.record for path, file in files.items()}


def write_activations(
    root: Path, settings: Settings, unit: int, arrays: dict[str, np.ndarray], trainable: np.ndarray
) -> ShardCommit:
    """Write one file a site; return the commit that vouches for them.

    While one is written, two threads look at the values. The files get their names only once all
    that is not dropped is found finite. Raises UserError as `StoreWriter.write_shard` does.
    """
    _require(settings, unit, arrays, trainable)
    in_order = {site: arrays[site] for site in settings.widths}
    held, arrays = as_stored(in_order, settings.dtype)
    files = dict(_files(settings, unit, held))
    with ThreadPoolExecutor(2, "checks") as checks:
        dropped = checks.submit(_dropped, settings, unit, arrays, trainable)

        def sums(site: str) -> Statistics:
            kept = without(trainable, dropped.result())
            return _statistics(settings, unit, site, arrays[site], kept)

        statistics = {site: checks.submit(sums, site) for site in settings.widths}
        write_all(
            ((root / path, file) for path, file in files.items()),
            lambda: [found.result() for found in statistics.values()],
        )
    return ShardCommit(
        files={path: file.record for path, file in files.items()},
        trainable_per_chunk=_per_chunk(settings, without(trainable, dropped.result())),
        statistics={site: found.result() for site, found in statistics.items()},
        dropped=dropped.result(),
    )


def commit_of(
    settings: Settings,
    unit: int,
    arrays: dict[str, np.ndarray],
    trainable: np.ndarray,
    files: dict[str, FileRecord],
) -> ShardCommit:
    """The commit of a unit that is written already, in these `files`."""
    dropped = _dropped(settings, unit, arrays, trainable)
    kept = without(trainable, dropped)
    return ShardCommit(
        files=files,
        trainable_per_chunk=_per_chunk(settings, kept),
        statistics={
            site: _statistics(settings, unit, site, array, kept) for site, array in arrays.items()
        },
        dropped=dropped,
    )


def _per_chunk(settings: Settings, trainable: np.ndarray) -> list[int]:
    layout = settings.layout(len(trainable))  # of this unit alone
    counts = []
    for chunk in range(layout.num_chunks):
        rows, columns = layout.sequences_of_chunk(chunk), layout.positions_of_chunk(chunk)
        part = trainable[rows.start : rows.stop, columns.start : columns.stop]
        counts.append(int(part.sum()))
    return counts


def _files(
    settings: Settings, unit: int, arrays: dict[str, np.ndarray]
) -> Iterator[tuple[str, _ShardFile]]:
    """Path and contents of the shard file of each array, given by the array's path."""
    specs = array_specs(settings.widths, settings.sequence_length, settings.dtype)
    for path, values in arrays.items():
        layout = settings.layout(len(values))
        yield specs[path].file(unit), _ShardFile(shard_parts(specs[path], layout, values))


def _require(
    settings: Settings, unit: int, arrays: dict[str, np.ndarray], trainable: np.ndarray
) -> None:
    wanted = {
        site: ((*trainable.shape, width), settings.dtype.storage)
        for site, width in settings.widths.items()
    }
    found = {site: (array.shape, array.dtype) for site, array in arrays.items()}
    if found != wanted:
        raise UserError(
            f"found {found} for unit {unit}; expected {wanted}; give every site of the store"
        )


def _dropped(
    settings: Settings, unit: int, arrays: dict[str, np.ndarray], trainable: np.ndarray
) -> Dropped | None:
    """What the store's settings say is to be dropped; their defaults need no look at the values."""
    if settings.non_finite is NonFinite.fail and settings.max_norm is None:
        return None
    norms = {site: norms_of(from_storage(arrays[site], settings.dtype)) for site in settings.widths}
    try:
        return drop(norms, trainable.ravel(), settings.non_finite, settings.max_norm)
    except UserError as error:
        raise UserError(f"unit {unit}: {error}") from error


def _statistics(
    settings: Settings, unit: int, site: str, array: np.ndarray, trainable: np.ndarray
) -> Statistics:
    x_NSD = from_storage(array, settings.dtype)
    try:
        first = unit * settings.shard_sequences
        return statistics_of(x_NSD, torch.from_numpy(trainable), first)
    except UserError as error:
        raise UserError(f"unit {unit}, site {site}: {error}") from error
