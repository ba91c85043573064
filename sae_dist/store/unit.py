"""One unit's files: laid out, summed, checked and written at once.

A chunk is gathered, summed for its CRC-32C and written while it is still in a core's cache; another
thread looks at all values meanwhile.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.store.config import NonFinite
from sae_dist.store.files import Files
from sae_dist.store.layout import (
    INDEX,
    INPUT_IDS,
    MARKS,
    ArraySpec,
    activations_path,
    crc32c,
    scales_path,
)
from sae_dist.store.records import Settings, UnitCommit
from sae_dist.store.values import (
    Statistics,
    find_outliers,
    norms_of,
    quantise,
    restored,
    statistics_of,
)

UNTRAINABLE, TRAINABLE, DROPPED = range(3)  # what `sequences/marks` says of a token


def require_tokens(settings: Settings, ids: np.ndarray, trainable: np.ndarray) -> None:
    """Raise UserError for tokens of another shape or dtype than the store's."""
    shape = (len(ids), settings.sequence_length)
    found = [(array.shape, array.dtype.name) for array in (ids, trainable)]
    if found != [(shape, "int32"), (shape, "bool")]:
        raise UserError(
            f"found input_ids {found[0]} and trainable {found[1]}; expected int32 and bool of "
            f"{shape}; pack the tokens to the store's sequence length"
        )


def write_unit(
    files: Files,
    settings: Settings,
    unit: int,
    token: str,
    arrays: Mapping[str, np.ndarray],
    ids: np.ndarray,
    trainable: np.ndarray,
) -> UnitCommit:
    """Write all files of one unit, under names with `token`; return what vouches for them.

    Raises UserError as `StoreWriter.write_unit` does; then, and at any other error, none is left.
    """
    _require_arrays(settings, unit, arrays, trainable)
    stored, given = _as_stored(arrays, settings.dtype)
    out_T, dropped = _outliers(settings, unit, given, trainable)
    kept_NS = trainable & ~out_T.reshape(trainable.shape)
    marks = np.where(kept_NS, TRAINABLE, np.where(trainable, DROPPED, UNTRAINABLE)).astype(np.uint8)
    order = row_order(unit, kept_NS)
    contents = _contents(settings, unit, stored, ids, marks, order)
    specs = settings.specs_of(unit)
    sums: dict[str, bytes] = {}
    try:
        with ThreadPoolExecutor(1, "sums") as thread:
            counted = thread.submit(_statistics, settings, unit, given, kept_NS)
            for spec in specs:
                parts = ShardParts(spec, *contents[spec.path])
                files.write_parts(spec.unpublished(unit, token), parts)
                sums[spec.path] = parts.sums()
            statistics = counted.result()
    except Exception:
        discard(files, specs, unit, token)
        raise
    return UnitCommit(
        unit=unit,
        num_sequences=len(ids),
        token=token,
        rows=len(order),
        sums=sums,
        statistics=statistics,
        dropped=dropped,
        num_dropped=int(out_T.sum()),
    )


def publish(files: Files, specs: list[ArraySpec], unit: int, token: str) -> None:
    """Give a committed unit's files their names; those that have them already stay."""
    for spec in specs:
        with suppress(FileNotFoundError):
            files.rename(spec.unpublished(unit, token), spec.file(unit))


def discard(files: Files, specs: list[ArraySpec], unit: int, token: str) -> None:
    """Remove a unit's files that are not to be committed."""
    for spec in specs:
        with suppress(OSError):
            files.remove(spec.unpublished(unit, token))


def row_order(unit: int, kept_NS: np.ndarray) -> np.ndarray:
    """The tokens of a unit that are its rows, as they stand in its files, int64 [rows].

    A token's number is sequence in the unit · S + position. The order is drawn from the unit's
    number, so that any chunk is a fair sample of the unit.
    """
    return generator(0, "rows", unit).permutation(np.flatnonzero(kept_NS))


class ShardParts:
    """The bytes of a shard file, part after part; `sums` gives the chunks' CRC-32C after the last.

    `items` are all of the unit, of which `order` are in the file, in that order; all if it is None.
    A chunk is gathered, or filled up, when its turn comes: no more than one is held here.
    """

    def __init__(self, spec: ArraySpec, items: np.ndarray, order: np.ndarray | None) -> None:
        self._spec, self._items, self._order = spec, items, order
        self._sums: list[int] = []

    def __iter__(self) -> Iterator[memoryview]:
        spec, num = self._spec, len(self._items if self._order is None else self._order)
        chunk = spec.empty_chunk()
        for start in range(0, num, spec.chunk_items):
            piece = self._piece(start, min(start + spec.chunk_items, num), chunk)
            data = piece.reshape(-1).view(np.uint8)
            self._sums.append(crc32c(data))
            yield data.data
            yield memoryview(self._sums[-1].to_bytes(4, "little"))
        yield memoryview(spec.index(num))

    def sums(self) -> bytes:
        """CRC-32C of each chunk, little-endian uint32."""
        return np.array(self._sums, "<u4").tobytes()

    def _piece(self, start: int, stop: int, chunk: np.ndarray) -> np.ndarray:
        """Items of a whole chunk in one piece; copies are made in the same memory: new is slow."""
        is_whole = stop - start == len(chunk)
        if self._order is not None:
            np.take(self._items, self._order[start:stop], 0, chunk[: stop - start], "clip")
        elif is_whole and self._items.flags.c_contiguous:
            return self._items[start:stop]
        else:
            chunk[: stop - start] = self._items[start:stop]
        if not is_whole:
            chunk[stop - start :] = self._spec.empty_chunk()[stop - start :]
        return chunk


def _contents(
    settings: Settings,
    unit: int,
    stored: Mapping[str, tuple[np.ndarray, ...]],
    ids: np.ndarray,
    marks: np.ndarray,
    order: np.ndarray,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """What each array's file holds: the unit's items, and which of them in what order."""
    first = unit * settings.shard_sequences * settings.sequence_length
    index = np.arange(first, first + ids.size)
    contents: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        INPUT_IDS: (ids, None),
        MARKS: (marks, None),
        INDEX: (index, order),
    }
    for site, arrays in stored.items():
        for path_of, array in zip((activations_path, scales_path), arrays, strict=False):
            flat = array.reshape(ids.size, *array.shape[2:])
            contents |= {path_of(site, True): (flat, order), path_of(site, False): (array, None)}
    return contents


def _as_stored(
    arrays: Mapping[str, np.ndarray], dtype: FloatDtype
) -> tuple[dict[str, tuple[np.ndarray, ...]], dict[str, np.ndarray]]:
    """By site what its files hold, (values,) or (q, s), and what these give back."""
    if dtype is not FloatDtype.int8:
        return {site: (array,) for site, array in arrays.items()}, dict(arrays)
    stored = {site: quantise(array) for site, array in arrays.items()}
    return dict(stored), {site: restored(q, s) for site, (q, s) in stored.items()}


def _require_arrays(
    settings: Settings, unit: int, arrays: Mapping[str, np.ndarray], trainable: np.ndarray
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


def _outliers(
    settings: Settings, unit: int, arrays: Mapping[str, np.ndarray], trainable: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """What the store's settings say is to be dropped; their defaults need no look at the values."""
    if settings.non_finite is NonFinite.fail and settings.max_norm is None:
        return np.zeros(trainable.size, bool), {}
    norms = {site: norms_of(from_storage(arrays[site], settings.dtype)) for site in settings.widths}
    try:
        return find_outliers(norms, trainable.ravel(), settings.non_finite, settings.max_norm)
    except UserError as error:
        raise UserError(f"unit {unit}: {error}") from error


def _statistics(
    settings: Settings, unit: int, arrays: Mapping[str, np.ndarray], kept_NS: np.ndarray
) -> dict[str, Statistics]:
    return {
        site: unit_statistics(settings, unit, site, arrays[site], kept_NS)
        for site in settings.widths
    }


def unit_statistics(
    settings: Settings, unit: int, site: str, array: np.ndarray, kept_NS: np.ndarray
) -> Statistics:
    """Statistics of one unit's rows at a site, from its activations [n, S, D] as stored.

    Raises UserError naming unit, site and sequence for a value that is not finite.
    """
    x_NSD = from_storage(array, settings.dtype)
    try:
        first = unit * settings.shard_sequences
        return statistics_of(x_NSD, torch.from_numpy(kept_NS), first)
    except UserError as error:
        raise UserError(f"unit {unit}, site {site}: {error}") from error
