"""Reading a store that its manifest vouches for, each chunk compared with its checksum.

Files are opened when they are read: one that is missing or cut short is told then, or by verify.
The arrays' zarr.json are for other readers: where a chunk is follows from the manifest.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.store.cache import ChunkCache
from sae_dist.store.config import CacheConfig
from sae_dist.store.contents import Array, Contents, assemble, check_manifest
from sae_dist.store.files import Fault, files_at
from sae_dist.store.layout import (
    CRC_BYTES,
    INDEX,
    INPUT_IDS,
    MARKS,
    TOKEN_ARRAYS,
    activations_path,
    scales_path,
)
from sae_dist.store.records import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    UNIT_COMMITS,
    Manifest,
    Settings,
    Statistics,
    digest,
    list_units,
    load,
    load_commit,
    load_end,
    load_settings,
    parse,
)
from sae_dist.store.unit import TRAINABLE, restored

MAX_SHARD_BYTES = 2**30


class Store:
    """Activations and tokens; safe to read from many threads. Made by `open_store`.

    Training units are rows: trainable tokens alone, in chunks numbered through all units, in an
    order by which any chunk is a fair sample of its unit. Held-out units are whole sequences.

    Attributes:
        path: the store's folder.
        manifest, hash: what vouches for it, and the sha256 of that: equal stores have equal hashes.
        layout: the grid of sequences, units and chunks.
        dtype: the format of the stored activations.
        sites: width of each site.
        chunk_rows: rows of every training chunk, int64 [chunks]; all but a unit's last are equal.
        unit_of_chunk: which unit each of them is of, int64 [chunks].
    """

    def __init__(self, contents: Contents, digest: str = "", cache: ChunkCache | None = None):
        self.path, self.manifest, self.hash = contents.files.path(), contents.manifest, digest
        self.layout, settings = contents.layout, self.manifest.settings
        self.dtype, self.sites = settings.dtype, dict(settings.widths)
        self._contents, self._cache = contents, cache
        index = contents.arrays[INDEX]
        self.unit_of_chunk = np.repeat(np.arange(len(index.items)), np.diff(index.first_chunk))
        self.chunk_rows = np.full(len(self.unit_of_chunk), settings.chunk_rows, np.int64)
        has_rows = index.items > 0
        last_chunk = index.first_chunk[1:][has_rows] - 1
        self.chunk_rows[last_chunk] = (index.items[has_rows] - 1) % settings.chunk_rows + 1

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the activations are from; `tokens` is the text's fingerprint."""
        return {**self.manifest.settings.provenance, "tokens": self.manifest.fingerprint}

    @property
    def held_out(self) -> list[range]:
        """The sequences of each held-out unit, in order."""
        is_there = self._contents.arrays[INPUT_IDS].has_file
        units = np.flatnonzero(is_there & self._contents.is_held_out)
        return [self.layout.sequences_of(unit) for unit in units.tolist()]

    def token_sums(self, path: str) -> np.ndarray:
        """The CRC-32C of each chunk of the arrays that tell of tokens: equal for equal ones."""
        return self._contents.arrays[path].sums

    def statistics(self, site: str) -> Statistics:
        """Sums over the rows of training units. Raises UserError for an unknown site."""
        self._require(site)
        return self.manifest.statistics[site]

    def read_rows(self, site: str, chunk: int) -> np.ndarray:
        """Activations [n, D] of one training chunk.

        They are in the storage dtype (`common.dtypes.from_storage`). Raises UserError for an
        unknown site or chunk, and for damage, naming file and chunk.
        """
        self._require(site)
        out = np.empty((self._num_rows(chunk), self.sites[site]), self.dtype.storage)
        self.read_rows_into(site, chunk, out)
        return out

    def read_rows_into(self, site: str, chunk: int, out: np.ndarray) -> None:
        """Fill `out` [n, D], of the storage dtype and in C order, by one training chunk.

        Of a whole chunk there is no other copy, unless the store is in eight bits. Raises like
        `read_rows`.
        """
        self._require(site)
        self._read_chunk(activations_path(site, True), chunk, out)

    def read_index(self, chunk: int) -> np.ndarray:
        """Which tokens the rows of one training chunk are: sequence · S + position, int64 [n].

        Raises like `read_rows`.
        """
        out = np.empty(self._num_rows(chunk), np.int64)
        self._read_chunk(INDEX, chunk, out)
        return out

    def read_sequences(self, site: str, sequences: range) -> np.ndarray:
        """Activations [n, S, D] of whole sequences of held-out units, in the storage dtype.

        Whole chunks are read: best ask for multiples of `layout.chunk_sequences`. Raises UserError
        for sequences of other units, and like `read_rows`.
        """
        self._require(site)
        return self._read_sequences(activations_path(site, False), sequences)

    def read_tokens(self, sequences: range) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of whole sequences of any units.

        Tokens that were dropped are not trainable. Raises like `read_rows`.
        """
        ids, marks = self.read_marked_tokens(sequences)
        return ids, marks == TRAINABLE

    def read_marked_tokens(self, sequences: range) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32, marks uint8) [n, S], marks as `store.unit` numbers them."""
        return self._read_sequences(INPUT_IDS, sequences), self._read_sequences(MARKS, sequences)

    def _read_sequences(self, path: str, sequences: range) -> np.ndarray:
        """Whole sequences [n, …] of an array, from the chunks that hold them."""
        array, num_done = self._contents.arrays[path], 0
        spec = array.spec
        dtype = self.dtype.storage if spec.dtype == np.int8 else spec.dtype
        out = np.empty((len(sequences), *spec.item_shape), dtype)
        while num_done < len(sequences):
            sequence = sequences[num_done]
            unit, place = divmod(sequence, self.layout.shard_sequences)
            if sequence not in range(self.layout.num_sequences) or not array.has_file[unit]:
                what = "one that is there" if path in TOKEN_ARRAYS else "one of a held-out unit"
                raise UserError(
                    f"found no sequence {sequence} in {self.path}/{path}; expected {what}; "
                    "ask for one"
                )
            number, offset = divmod(place, spec.chunk_items)
            size = min(spec.chunk_items, int(array.items[unit]) - number * spec.chunk_items)
            num = min(size - offset, len(sequences) - num_done)
            room = out[num_done : num_done + num]
            chunk = room if num == size else np.empty((size, *spec.item_shape), dtype)
            self._read_chunk(path, int(array.first_chunk[unit]) + number, chunk)
            if chunk is not room:
                room[:] = chunk[offset : offset + num]
            num_done += num
        return out

    def _num_rows(self, chunk: int) -> int:
        if not 0 <= chunk < len(self.chunk_rows):
            raise UserError(
                f"found no chunk {chunk} in {self.path}; expected 0 to {len(self.chunk_rows) - 1}; "
                "ask for those"
            )
        return int(self.chunk_rows[chunk])

    def _read_chunk(self, path: str, chunk: int, out: np.ndarray) -> None:
        """Fill `out` (C order) by the items of a chunk; those in eight bits are restored."""
        array = self._contents.arrays[path]
        if array.spec.dtype != np.int8:
            self._read_items(array, chunk, out)
            return
        values, scales = np.empty(out.shape, np.int8), np.empty(out.shape[:-1], np.float32)
        self._read_items(array, chunk, values)
        self._read_items(self._contents.arrays[scales_path(path)], chunk, scales)
        restored(values, scales, out)

    def _read_items(self, array: Array, chunk: int, out: np.ndarray) -> None:
        """Fill `out` from nearby or from the store, and compare the chunk's checksum."""
        chunk_bytes = array.spec.chunk_bytes - CRC_BYTES
        data = items = out.reshape(-1).view(np.uint8)
        if items.nbytes < chunk_bytes:  # fill values follow in the file
            data = np.empty(chunk_bytes, np.uint8)
        name, crc = f"{array.spec.path.replace('/', '+')}+{chunk}", int(array.sums[chunk])
        if self._cache is None or not self._cache.read_into(name, data, crc):
            self._read_stored(array, chunk, data, crc)
            if self._cache is not None:
                self._cache.put(name, data)
        if data is not items:
            items[:] = data[: items.nbytes]

    def _read_stored(self, array: Array, chunk: int, out: np.ndarray, expected: int) -> None:
        """Fill `out` from the store's own file."""
        spec, files = array.spec, self._contents.files
        unit = int(np.searchsorted(array.first_chunk, chunk, side="right")) - 1
        offset = (chunk - int(array.first_chunk[unit])) * spec.chunk_bytes
        try:
            self._contents.read(spec, unit, partial(files.read_into, offset=offset, out=out))
            if (crc := crc32c(out)) == expected:
                return
            said = f"crc32c {crc:08x} instead of {expected:08x}"
        except OSError as error:
            said = str(error)
        raise Fault(
            files.path(spec.file(unit)),
            f"with chunk {chunk} damaged ({said})",
            remedy="run sae-dist verify, with repair=true to mend it",
        )

    def _require(self, site: str) -> None:
        if site not in self.sites:
            raise UserError(
                f"found no site {site!r} in {self.path}; expected one of {', '.join(self.sites)}"
            )


def open_store(
    path: str | Path,
    *,
    unsealed: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    cache: CacheConfig | None = None,
) -> Store:
    """Open a sealed store after checking its manifest, with as few requests as that takes.

    With `unsealed`, a store still being written opens with the units committed so far. `cache`
    keeps a sealed store's chunks nearby. Raises UserError naming what is wrong, and for shards
    larger than `max_shard_bytes`.
    """
    files = files_at(path)
    if files.exists(MANIFEST_FILE):
        data = files.read(MANIFEST_FILE)
        manifest = parse(data, files.path(MANIFEST_FILE), Manifest)
        check_manifest(files.path(MANIFEST_FILE), manifest, max_shard_bytes)
        contents = Contents(files, manifest)
        contents.take_sums(contents.load_sums(SUMS_FILE))
        hash, near = digest(data), None
        if cache is not None and cache.folder is not None:
            near = ChunkCache(Path(cache.folder), int(cache.gib * 2**30), hash)
        return Store(contents, hash, near)
    if not files.exists(SETTINGS_FILE):
        raise UserError(f"found no store at {path}; expected {MANIFEST_FILE}; check the path")
    if not unsealed:
        raise UserError(
            f"found an unsealed store at {path}; expected {MANIFEST_FILE}; finish the harvest "
            "(open_store(…, unsealed=True) reads what is there)"
        )
    settings = load(files, SETTINGS_FILE, Settings)
    commits = {unit: load_commit(files, unit) for unit in list_units(files, UNIT_COMMITS)}
    found = assemble(files, settings, load_end(files), commits)
    if found is None:
        raise UserError(
            f"found nothing in {files.path()} yet; expected a unit that is harvested; wait for one"
        )
    check_manifest(files.path(SETTINGS_FILE), found.manifest, max_shard_bytes)
    return Store(found)


def read_settings(path: str | Path) -> Settings | None:
    """What a started or sealed store was started with; None where there is no store."""
    try:
        return load_settings(files_at(path))[1]
    except FileNotFoundError:
        return None
