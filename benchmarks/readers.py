"""One way each to read a store's chunks: its own reader, memmap, and libraries that know zarr."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import zarr

from sae_dist.store import Store
from sae_dist.store.layout import activations_path, array_specs

SITE = "x"
Read = Callable[[int, np.ndarray], object]


class Memmap:
    """The bytes of chunks through `numpy.memmap`, unchecked; files are mapped when first asked for.

    Chunks lie in their shard one after the other, each followed by its checksum.
    """

    def __init__(self, store: Store) -> None:
        specs = array_specs(store.sites, store.layout, store.dtype)
        self._folder, self._spec = store.path, specs[activations_path(SITE, is_of_rows=True)]
        self._units, self._numbers = store.unit_of_chunk, _numbers(store)
        self._maps: dict[int, np.memmap] = {}

    def read(self, chunk: int, out: np.ndarray) -> None:
        """Copy one chunk."""
        unit = int(self._units[chunk])
        if unit not in self._maps:
            self._maps[unit] = np.memmap(self._folder / self._spec.file(unit), np.uint8, "r")
        start = int(self._numbers[chunk]) * self._spec.chunk_bytes
        out.reshape(-1).view(np.uint8)[:] = self._maps[unit][start : start + out.nbytes]


def _memmap(store: Store) -> Iterator[Read]:
    yield Memmap(store).read


def _own(store: Store) -> Iterator[Read]:
    yield lambda chunk, out: store.read_rows_into(SITE, chunk, out)


def _numbers(store: Store) -> np.ndarray:
    """Which of its unit each chunk is."""
    return np.arange(len(store.unit_of_chunk)) - np.searchsorted(
        store.unit_of_chunk, store.unit_of_chunk
    )


def _place(store: Store) -> Callable[[int], slice]:
    """Where in the array a chunk lies."""
    layout, numbers = store.layout, _numbers(store)

    def place(chunk: int) -> slice:
        start = store.unit_of_chunk[chunk] * layout.unit_rows + numbers[chunk] * layout.chunk_rows
        return slice(int(start), int(start + store.chunk_rows[chunk]))

    return place


def _zarr(store: Store) -> Iterator[Read]:
    """The array is a new one each time: these libraries give no way to fill one's own."""
    array = zarr.open_array(store.path / activations_path(SITE, is_of_rows=True), mode="r")
    place = _place(store)
    yield lambda chunk, out: array[place(chunk)]


def _zarrs(store: Store) -> Iterator[Read]:
    import zarrs  # noqa: F401  # registers the pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield from _zarr(store)


def _tensorstore(store: Store) -> Iterator[Read]:
    import tensorstore

    folder = {"driver": "file", "path": str(store.path / activations_path(SITE, is_of_rows=True))}
    array = tensorstore.open({"driver": "zarr3", "kvstore": folder}, read=True).result()
    place = _place(store)
    yield lambda chunk, out: array[place(chunk)].read().result()


_KINDS = {
    "memmap": _memmap,
    "sae_dist": _own,
    "zarr-python": _zarr,
    "zarrs": _zarrs,
    "tensorstore": _tensorstore,
}
READERS = [
    name
    for name in _KINDS
    if name not in ("zarrs", "tensorstore") or importlib.util.find_spec(name)
]
opened = {name: contextmanager(_KINDS[name]) for name in READERS}
