"""One unit's files: laid out, summed, checked and written at once.

A chunk is gathered, summed for its CRC-32C and written while it is still in a core's cache; another
thread looks at all values meanwhile.
"""

import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.common.seeds import generator
from sae_dist.store.files import Files
from sae_dist.store.layout import (
    INDEX,
    INPUT_IDS,
    MARKS,
    ArraySpec,
    activations_path,
    scales_path,
)
from sae_dist.store.records import Settings, UnitCommit
from sae_dist.store.values import Statistics, find_outliers, quantise, restored, statistics_of

UNTRAINABLE, TRAINABLE, DROPPED = range(3)  # what `sequences/marks` says of a token


class UnitFiles:
    """One unit's files, under names with a token of this writer's until they are published."""

    def __init__(self, files: Files, settings: Settings, unit: int) -> None:
        self._files, self._settings, self._unit = files, settings, unit
        self._token, self._is_held_out = uuid.uuid4().hex, settings.is_held_out(unit)
        specs = settings.specs().values()
        self._specs = [spec for spec in specs if spec.is_of(self._is_held_out)]

    def write(
        self, arrays: Mapping[str, np.ndarray], ids: np.ndarray, trainable: np.ndarray
    ) -> UnitCommit:
        """Write all of them; return what vouches for them.

        Raises UserError as `StoreWriter.write_unit` does; then, and at any other error, none is
        left.
        """
        settings, unit = self._settings, self._unit
        self._require(arrays, trainable)
        stored: dict[str, tuple[np.ndarray, ...]] = {site: (x,) for site, x in arrays.items()}
        if settings.dtype is FloatDtype.int8:
            stored = {site: quantise(array) for site, array in arrays.items()}
            arrays = {site: restored(*parts) for site, parts in stored.items()}
        with _named(f"unit {unit}"):
            given = {site: from_storage(arrays[site], settings.dtype) for site in settings.widths}
            limits = settings.non_finite, settings.max_norm
            out_NS, dropped = find_outliers(given, trainable, *limits)
        kept_NS = trainable & ~out_NS
        order = row_order(unit, kept_NS)
        marks = np.where(kept_NS, TRAINABLE, np.where(trainable, DROPPED, UNTRAINABLE))
        items = self._items(stored, ids, marks.astype(np.uint8))
        sums: dict[str, list[int]] = {spec.path: [] for spec in self._specs}
        try:
            with ThreadPoolExecutor(1, "sums") as thread:
                counted = thread.submit(self._statistics, arrays, kept_NS)
                for spec in self._specs:
                    rows = order if spec.is_of_rows else None
                    parts = shard_parts(spec, items[spec.path], rows, sums[spec.path])
                    self._files.write_parts(spec.unpublished(unit, self._token), parts)
                statistics = counted.result()
        except Exception:
            self.settle(is_committed=False)
            raise
        return UnitCommit(
            unit=unit,
            num_sequences=len(ids),
            token=self._token,
            rows=len(order),
            sums={path: np.array(of_array, "<u4").tobytes() for path, of_array in sums.items()},
            statistics=statistics,
            dropped=dropped,
            num_dropped=int(out_NS.sum()),
        )

    def settle(self, *, is_committed: bool) -> None:
        """Give them their names; or remove them, as they are not to be committed."""
        for spec in self._specs:
            name = spec.unpublished(self._unit, self._token)
            if is_committed:
                with suppress(FileNotFoundError):  # it has its name already
                    self._files.rename(name, spec.file(self._unit))
            else:
                with suppress(OSError):
                    self._files.remove(name)

    def _require(self, arrays: Mapping[str, np.ndarray], trainable: np.ndarray) -> None:
        wanted = {
            site: ((*trainable.shape, width), self._settings.dtype.storage)
            for site, width in self._settings.widths.items()
        }
        found = {site: (array.shape, array.dtype) for site, array in arrays.items()}
        if found != wanted:
            raise UserError(
                f"found {found} for unit {self._unit}; expected {wanted}; give every site of the "
                "store"
            )

    def _items(
        self, stored: Mapping[str, tuple[np.ndarray, ...]], ids: np.ndarray, marks: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Of each array all items of the unit; of rows, which are left out is not yet."""
        first = self._unit * self._settings.shard_sequences * self._settings.sequence_length
        items = {INPUT_IDS: ids, MARKS: marks, INDEX: np.arange(first, first + ids.size)}
        is_of_rows = not self._is_held_out
        for site, arrays in stored.items():
            values = activations_path(site, is_of_rows)
            for path, array in zip((values, scales_path(values)), arrays, strict=False):
                rows = array.reshape(ids.size, *array.shape[2:])
                items[path] = rows if is_of_rows else array
        return items

    def _statistics(
        self, arrays: Mapping[str, np.ndarray], kept_NS: np.ndarray
    ) -> dict[str, Statistics]:
        return {
            site: unit_statistics(self._settings, self._unit, site, arrays[site], kept_NS)
            for site in self._settings.widths
        }


def unit_statistics(
    settings: Settings, unit: int, site: str, array: np.ndarray, kept_NS: np.ndarray
) -> Statistics:
    """Statistics of one unit's rows at a site, from its activations [n, S, D] as stored.

    Raises UserError naming unit, site and sequence for a value that is not finite.
    """
    x_NSD, first = from_storage(array, settings.dtype), unit * settings.shard_sequences
    with _named(f"unit {unit}, site {site}"):
        return statistics_of(x_NSD, torch.from_numpy(kept_NS), first)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Have an error say what it is of."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def row_order(unit: int, kept_NS: np.ndarray) -> np.ndarray:
    """The tokens of a unit that are its rows, as they stand in its files, int64 [rows].

    A token's number is sequence in the unit · S + position. The order is drawn from the unit's
    number, so that any chunk is a fair sample of the unit.
    """
    return generator(0, "rows", unit).permutation(np.flatnonzero(kept_NS))


def shard_parts(
    spec: ArraySpec, items: np.ndarray, order: np.ndarray | None, sums: list[int]
) -> Iterator[memoryview]:
    """The bytes of a shard file, part after part; each chunk's CRC-32C is added to `sums`.

    `items` are all of the unit, of which `order` are in the file, in that order; all if it is None.
    A chunk is gathered, or filled up, when its turn comes, in the same memory: new is slow.
    """
    num, held = len(items if order is None else order), spec.empty_chunk()
    for start in range(0, num, spec.chunk_items):
        stop = min(start + spec.chunk_items, num)
        length, chunk = stop - start, held
        if order is not None:
            np.take(items, order[start:stop], 0, held[:length], "clip")
        elif length == len(held) and items.flags.c_contiguous:
            chunk = items[start:stop]
        else:
            held[:length] = items[start:stop]
        if length < len(held):
            held[length:] = spec.empty_chunk()[length:]
        data = chunk.reshape(-1).view(np.uint8)
        sums.append(crc32c(data))
        yield data.data
        yield memoryview(sums[-1].to_bytes(4, "little"))
    yield memoryview(spec.index(num))
