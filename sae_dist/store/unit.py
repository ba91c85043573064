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
from sae_dist.store.config import NonFinite
from sae_dist.store.files import Files
from sae_dist.store.layout import (
    INDEX,
    INPUT_IDS,
    MARKS,
    ArraySpec,
    activations_path,
    scales_path,
)
from sae_dist.store.records import Settings, Statistics, UnitCommit

UNTRAINABLE, TRAINABLE, DROPPED = range(3)  # what `sequences/marks` says of a token
_BLOCK_VALUES = (1 << 15) - 1  # from 2¹⁵ on torch divides its work among threads
_SUMMED_VALUES = 1 << 17
_LEAST_SQUARE = 1e-30  # of a value, in the mean: float32 has no digits far below
_LARGEST = 127  # of a value in eight bits
_LARGEST_SHARE = 0.02  # of a unit's trainable tokens: more is no outlier


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
        given = {site: from_storage(arrays[site], settings.dtype) for site in settings.widths}
        with _named(f"unit {unit}"):
            limits = settings.non_finite, settings.max_norm
            out_NS, dropped = find_outliers(given, trainable, *limits)
        kept_NS = trainable & ~out_NS
        order = row_order(unit, kept_NS)
        marks = np.where(kept_NS, TRAINABLE, np.where(trainable, DROPPED, UNTRAINABLE))
        items = self._items(stored, ids, marks.astype(np.uint8))
        sums: dict[str, list[int]] = {spec.path: [] for spec in self._specs}

        def count() -> dict[str, Statistics]:
            each = given.items()
            return {site: unit_statistics(settings, unit, site, x, kept_NS) for site, x in each}

        try:
            with ThreadPoolExecutor(1, "sums") as thread:
                counted = thread.submit(count)
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


def unit_statistics(
    settings: Settings, unit: int, site: str, x_NSD: torch.Tensor, kept_NS: np.ndarray
) -> Statistics:
    """Statistics of one unit's rows at a site, from its activations.

    Raises UserError naming unit, site and sequence for a value that is not finite.
    """
    with _named(f"unit {unit}, site {site}"):
        return statistics_of(x_NSD, torch.from_numpy(kept_NS), unit * settings.shard_sequences)


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


def _blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same rows of all, of the first [T, D] so few that torch works in one thread."""
    rows = max(1, _BLOCK_VALUES // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def statistics_of(
    x_NSD: torch.Tensor, trainable_NS: torch.Tensor, first_sequence: int
) -> Statistics:
    """Statistics of the trainable tokens of `x_NSD`, whose first row is sequence `first_sequence`.

    Blocks that stay in a core's cache are summed in float32, and all of them in float64: four times
    as fast as float64 throughout, and within 1e-6 of it at usual widths. One thread takes them: the
    sums are the same with any number of threads, and do not wait for cores that the language model
    keeps busy. Raises UserError naming the first sequence with a NaN or infinity at a trainable
    token; other tokens may hold anything.
    """
    sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float32)
    count = int(trainable_NS.sum())
    if not np.isfinite(sum_square):
        bad_N = (trainable_NS & ~torch.isfinite(x_NSD).all(2)).any(1)
        if bad_N.any():
            raise UserError(
                f"found NaN or infinity at a trainable token of sequence "
                f"{first_sequence + int(bad_N.nonzero()[0])}; expected finite activations; "
                "drop such tokens (writer.non_finite=drop) or store as float32"
            )
        sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float64)  # of squares beyond float32
    elif sum_square < _LEAST_SQUARE * count * x_NSD.shape[2]:  # or below it
        sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float64)
    return Statistics(count=count, sum=sum_D, sum_square=sum_square)


def _sums(
    x_NSD: torch.Tensor, trainable_NS: torch.Tensor, block_dtype: type[np.floating]
) -> tuple[np.ndarray, float]:
    """(Σx float64 [D], Σ‖x‖²) over trainable tokens, each block of them in `block_dtype`."""
    width = x_NSD.shape[2]
    sum_D, sum_square = np.zeros(width), 0.0
    rows = max(1, _SUMMED_VALUES // width)
    block_TD = np.empty((rows, width), block_dtype)  # once: new memory is as slow as the sums
    blocks = zip(x_NSD.flatten(0, 1).split(rows), trainable_NS.flatten().split(rows), strict=True)
    with np.errstate(all="ignore"):  # the caller looks at what came out
        for x_TD, trainable_T in blocks:
            kept_TD = x_TD if trainable_T.all() else x_TD[trainable_T]
            summed_TD = block_TD[: len(kept_TD)]
            _fill(summed_TD, kept_TD)
            sum_D += summed_TD.sum(0)
            sum_square += float(np.vecdot(summed_TD, summed_TD).sum(dtype=np.float64))
    return sum_D, sum_square


def _fill(out_TD: np.ndarray, x_TD: torch.Tensor) -> None:
    """Copy `x_TD` to another dtype."""
    if x_TD.dtype is torch.bfloat16 and out_TD.dtype == np.float32:
        bits_TD = out_TD.view(np.uint32)  # a bfloat16 is a float32's upper half
        bits_TD[:] = x_TD.view(torch.uint16).numpy()
        bits_TD <<= 16
        return
    for x_RD, out_RD in _blocks(x_TD, torch.from_numpy(out_TD)):
        out_RD.copy_(x_RD)


def quantise(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q int8 [..., D], s float32 [...]) of bfloat16 values [..., D] as numpy holds them."""
    x_TD = from_storage(array.reshape(-1, array.shape[-1]), FloatDtype.int8)
    q_TD, s_T = torch.empty(x_TD.shape, dtype=torch.int8), torch.empty(len(x_TD))
    for x_RD, q_RD, s_R in _blocks(x_TD, q_TD, s_T):
        values_RD = x_RD.float()
        torch.mul(values_RD.abs().amax(1), 1 / _LARGEST, out=s_R)
        s_R[~s_R.isfinite()] = torch.nan
        torch.nan_to_num(values_RD / s_R[:, None], nan=0.0, out=values_RD)  # 0 / 0, and holes
        q_RD.copy_(values_RD.round_().clamp_(-_LARGEST, _LARGEST))
    return q_TD.numpy().reshape(array.shape), s_T.numpy().reshape(array.shape[:-1])


def restored(q: np.ndarray, s: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`out` [..., D], or a new array, filled with q · s in bfloat16, as numpy holds it.

    `s` has q's shape but D. In the thread that calls: a stream reads in several.
    """
    out = np.empty(q.shape, FloatDtype.int8.storage) if out is None else out
    q_TD, out_TD = (torch.from_numpy(array.reshape(-1, q.shape[-1])) for array in (q, out))
    s_T1 = torch.from_numpy(s.reshape(-1, 1))
    for q_RD, s_R1, out_RD in _blocks(q_TD, s_T1, out_TD.view(torch.bfloat16)):
        torch.mul(q_RD, s_R1, out=out_RD)
    return out


def find_outliers(
    x_by_site: Mapping[str, torch.Tensor],
    trainable_NS: np.ndarray,
    non_finite: NonFinite,
    max_norm: float | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which of a unit's trainable tokens are left out, bool [N, S], and how many for each site.

    Args:
        x_by_site: the activations [N, S, D] of each site.
        trainable_NS: the tokens that may be trained on.
        non_finite: whether tokens that are not finite are left out (or stay, to be refused).
        max_norm: times the median norm of the site's trainable tokens; longer ones are left out.

    Raises UserError when it would be more than 2 % of the trainable tokens.
    """
    out_NS, per_site = np.zeros_like(trainable_NS), dict[str, int]()
    if non_finite is NonFinite.fail and max_norm is None:  # without a look at the values
        return out_NS, per_site
    for site, x_NSD in x_by_site.items():
        norms = [x_TD.double().square().sum(1) for (x_TD,) in _blocks(x_NSD.flatten(0, 1))]
        norms_NS = torch.cat(norms).sqrt().numpy().reshape(trainable_NS.shape)
        is_finite_NS = np.isfinite(norms_NS)
        is_out_NS = ~is_finite_NS if non_finite is NonFinite.drop else np.zeros_like(trainable_NS)
        if max_norm is not None and (counted_NS := is_finite_NS & trainable_NS).any():
            is_out_NS |= is_finite_NS & (norms_NS > max_norm * np.median(norms_NS[counted_NS]))
        is_out_NS &= trainable_NS
        out_NS |= is_out_NS
        if is_out_NS.any():
            per_site[site] = int(is_out_NS.sum())
    if out_NS.sum() > _LARGEST_SHARE * trainable_NS.sum():
        raise UserError(
            f"found {out_NS.sum()} of {trainable_NS.sum()} trainable tokens to drop {per_site}; "
            f"expected at most {_LARGEST_SHARE:.0%}; raise writer.max_norm, store as float32, or "
            "look at the language model"
        )
    return out_NS, per_site
