"""One way each to read a store's chunks: its own reader, memmap, and libraries that know zarr."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import zarr

from sae_dist.store import Store
from sae_dist.store.arrays import array_specs, site_path

SITE = "x"
Read = Callable[[int, np.ndarray], object]


class Memmap:
    """The bytes of chunks through `numpy.memmap`, unchecked; files are mapped when first asked for.

    Chunks lie in their shard one after the other, each followed by its checksum.
    """

    def __init__(self, store: Store) -> None:
        layout = store.layout
        self._layout = layout
        specs = array_specs(store.sites, layout.sequence_length, store.dtype)
        self._folder, self._spec = store.path, specs[site_path(SITE)]
        self._maps: dict[int, np.memmap] = {}

    def read(self, chunk: int, out: np.ndarray) -> None:
        """Copy one chunk."""
        unit, place = divmod(chunk, self._layout.chunks_per_shard)
        if unit not in self._maps:
            self._maps[unit] = np.memmap(self._folder / self._spec.file(unit), np.uint8, "r")
        start = place * self._spec.stored_chunk_bytes(self._layout)
        out.reshape(-1).view(np.uint8)[:] = self._maps[unit][start : start + out.nbytes]


def _memmap(store: Store) -> Iterator[Read]:
    yield Memmap(store).read


def _own(store: Store) -> Iterator[Read]:
    yield lambda chunk, out: store.read_chunk_into(SITE, chunk, out)


def _place(store: Store, chunk: int) -> tuple[slice, slice]:
    """Where in the array one chunk lies."""
    layout = store.layout
    held = layout.sequences_of_chunk(chunk), layout.positions_of_chunk(chunk)
    sequences, positions = (slice(numbers.start, numbers.stop) for numbers in held)
    return sequences, positions


def _zarr(store: Store) -> Iterator[Read]:
    """The array is a new one each time: these libraries give no way to fill one's own."""
    array = zarr.open_array(store.path / site_path(SITE), mode="r")
    yield lambda chunk, out: array[_place(store, chunk)]


def _zarrs(store: Store) -> Iterator[Read]:
    import zarrs  # noqa: F401  # registers the pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield from _zarr(store)


def _tensorstore(store: Store) -> Iterator[Read]:
    import tensorstore

    folder = {"driver": "file", "path": str(store.path / site_path(SITE))}
    array = tensorstore.open({"driver": "zarr3", "kvstore": folder}, read=True).result()
    yield lambda chunk, out: array[_place(store, chunk)].read().result()


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
