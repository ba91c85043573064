"""Reading a store that its manifest vouches for, each chunk compared with its checksum.

Files are opened when they are read: one that is missing or cut short is told then, or by verify.
The arrays' zarr.json are for other readers: where a chunk is follows from the manifest.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.store.cache import ChunkCache
from sae_dist.store.config import CacheConfig
from sae_dist.store.contents import (
    Contents,
    assemble,
    check_manifest,
    list_units,
    load_commit,
    load_end,
    load_settings,
    load_sums,
)
from sae_dist.store.files import Fault, FaultError, Files, TooShortError
from sae_dist.store.layout import (
    CRC_BYTES,
    INDEX,
    INPUT_IDS,
    MARKS,
    TOKEN_ARRAYS,
    ArraySpec,
    Layout,
    activations_path,
    scales_path,
)
from sae_dist.store.location import files_at
from sae_dist.store.records import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    UNIT_COMMITS,
    Manifest,
    Settings,
    digest,
    load,
    parse,
)
from sae_dist.store.unit import TRAINABLE
from sae_dist.store.values import Statistics, restore_into

MAX_SHARD_BYTES = 2**30


class Store:
    """Activations and tokens; safe to read from many threads. Made by `open_store`.

    Training units are rows: trainable tokens alone, in chunks numbered through all units, in an
    order by which any chunk is a fair sample of its unit. Held-out units are whole sequences.

    Attributes:
        path: the store's folder.
        manifest, hash: what vouches for it, and the sha256 of that: equal stores have equal hashes.
        chunk_rows: rows of every training chunk, int64 [chunks]; all but a unit's last are equal.
        unit_of_chunk: which unit each of them is of, int64 [chunks].
    """

    def __init__(
        self, files: Files, digest: str, contents: Contents, cache: ChunkCache | None = None
    ) -> None:
        self.path = files.path()
        self.manifest = manifest = contents.manifest
        self.hash = digest
        self._files, self._contents, self._cache = files, contents, cache
        items, first = contents.items[INDEX], contents.first_chunk[INDEX]
        size = manifest.settings.chunk_rows
        self.chunk_rows = np.full(int(first[-1]), size, np.int64)
        has_rows = items > 0
        self.chunk_rows[first[1:][has_rows] - 1] = (items[has_rows] - 1) % size + 1
        self.unit_of_chunk = np.repeat(np.arange(len(items)), np.diff(first))

    @property
    def layout(self) -> Layout:
        """The grid of sequences, units and chunks."""
        return self._contents.layout

    @property
    def dtype(self) -> FloatDtype:
        """The format of the stored activations."""
        return self.manifest.settings.dtype

    @property
    def sites(self) -> dict[str, int]:
        """Width of each site."""
        return dict(self.manifest.settings.widths)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the activations are from; `tokens` is the text's fingerprint."""
        return {**self.manifest.settings.provenance, "tokens": self.manifest.fingerprint}

    @property
    def held_out(self) -> list[range]:
        """The sequences of each held-out unit, in order."""
        units = np.flatnonzero(self._contents.has_file[INPUT_IDS] & self._contents.is_held_out)
        return [self.layout.sequences_of(unit) for unit in units.tolist()]

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
        self._read_activations(site, True, chunk, out)
        return out

    def read_rows_into(self, site: str, chunk: int, out: np.ndarray) -> None:
        """Fill `out` [n, D], of the storage dtype and in C order, by one training chunk.

        Of a whole chunk there is no other copy, unless the store is in eight bits. Raises like
        `read_rows`.
        """
        self._require(site)
        self._read_activations(site, True, chunk, out)

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
        shape = (len(sequences), self.layout.sequence_length, self.sites[site])
        out = np.empty(shape, self.dtype.storage)
        read = partial(self._read_activations, site, False)
        self._read_sequences(activations_path(site, False), sequences, out, read)
        return out

    def read_tokens(self, sequences: range) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of whole sequences of any units.

        Tokens that were dropped are not trainable. Raises like `read_rows`.
        """
        ids, marks = self.read_marked_tokens(sequences)
        return ids, marks == TRAINABLE

    def read_marked_tokens(self, sequences: range) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32, marks uint8) [n, S], marks as `store.unit` numbers them."""
        found = []
        for path in (INPUT_IDS, MARKS):
            shape = (len(sequences), self.layout.sequence_length)
            out = np.empty(shape, self._contents.specs[path].dtype)
            self._read_sequences(path, sequences, out, partial(self._read_chunk, path))
            found.append(out)
        return found[0], found[1]

    def _read_activations(self, site: str, is_of_rows: bool, chunk: int, out: np.ndarray) -> None:
        path = activations_path(site, is_of_rows)
        if self.dtype is not FloatDtype.int8:
            self._read_chunk(path, chunk, out)
            return
        values, scales = np.empty(out.shape, np.int8), np.empty(out.shape[:-1], np.float32)
        self._read_chunk(path, chunk, values)
        self._read_chunk(scales_path(site, is_of_rows), chunk, scales)
        restore_into(values, scales, out)

    def _read_sequences(
        self,
        path: str,
        sequences: range,
        out: np.ndarray,
        read: Callable[[int, np.ndarray], None],
    ) -> None:
        """Fill `out` by sequences of the store; `read` fills its second argument by a chunk."""
        done = 0
        while done < len(sequences):
            chunk, offset, size = self._locate(path, sequences[done])
            num = min(size - offset, len(sequences) - done)
            if num == size:
                read(chunk, out[done : done + num])
            else:
                held = np.empty((size, *out.shape[1:]), out.dtype)
                read(chunk, held)
                out[done : done + num] = held[offset : offset + num]
            done += num

    def _locate(self, path: str, sequence: int) -> tuple[int, int, int]:
        """(chunk of an array, place in it, sequences in it) of one of the store's sequences."""
        unit, place = divmod(sequence, self.layout.shard_sequences)
        contents = self._contents
        if sequence not in self.layout.sequences_of(unit) or not contents.has_file[path][unit]:
            what = "one that is there" if path in TOKEN_ARRAYS else "one of a held-out unit"
            raise UserError(
                f"found no sequence {sequence} in {self.path}/{path}; expected {what}; ask for one"
            )
        size = contents.specs[path].chunk_items
        number, offset = divmod(place, size)
        items = min(size, int(contents.items[path][unit]) - number * size)
        return int(contents.first_chunk[path][unit]) + number, offset, items

    def _num_rows(self, chunk: int) -> int:
        if not 0 <= chunk < len(self.chunk_rows):
            raise UserError(
                f"found no chunk {chunk} in {self.path}; expected 0 to {len(self.chunk_rows) - 1}; "
                "ask for those"
            )
        return int(self.chunk_rows[chunk])

    def _read_chunk(self, path: str, chunk: int, out: np.ndarray) -> None:
        """Fill `out` (C order) by the items of a chunk, and compare its checksum."""
        contents, spec = self._contents, self._contents.specs[path]
        first = contents.first_chunk[path]
        unit = int(np.searchsorted(first, chunk, side="right")) - 1
        offset = (chunk - int(first[unit])) * spec.chunk_bytes
        data = items = out.reshape(-1).view(np.uint8)
        if items.nbytes < spec.chunk_bytes - CRC_BYTES:  # fill values follow in the file
            data = np.empty(spec.chunk_bytes - CRC_BYTES, np.uint8)
        expected = int(contents.sums[path][chunk])
        name = f"{path.replace('/', '+')}+{chunk}"
        if self._cache is None or not self._cache.read_into(name, data, expected):
            said = self._read_stored(spec, unit, offset, data, expected)
            if said:
                raise FaultError(
                    Fault(
                        path=self._files.path(spec.file(unit)),
                        found=f"with chunk {chunk} damaged ({said})",
                        expected="the bytes that were committed",
                        remedy="run sae-dist verify, with repair=true to mend it",
                        unit=unit,
                    )
                )
            if self._cache is not None:
                self._cache.put(name, data)
        if data is not items:
            items[:] = data[: items.nbytes]

    def _read_stored(
        self, spec: ArraySpec, unit: int, offset: int, out: np.ndarray, expected: int
    ) -> str:
        """Fill `out` from the store's own file; what is wrong with it, if anything."""
        try:
            read = partial(self._files.read_into, offset=offset, out=out)
            self._contents.read(spec, unit, read)
        except (TooShortError, OSError) as error:
            return str(error)
        found = crc32c(out)
        return "" if found == expected else f"crc32c {found:08x} instead of {expected:08x}"

    def _require(self, site: str) -> None:
        if site not in self.manifest.settings.widths:
            raise UserError(
                f"found no site {site!r} in {self.path}; expected one of "
                f"{', '.join(self.manifest.settings.widths)}"
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
        return _open_sealed(files, max_shard_bytes, cache)
    if not files.exists(SETTINGS_FILE):
        raise UserError(f"found no store at {path}; expected {MANIFEST_FILE}; check the path")
    if not unsealed:
        raise UserError(
            f"found an unsealed store at {path}; expected {MANIFEST_FILE}; finish the harvest "
            "(open_store(…, unsealed=True) reads what is there)"
        )
    return _open_unsealed(files, max_shard_bytes)


def read_settings(path: str | Path) -> Settings | None:
    """What a started or sealed store was started with; None where there is no store."""
    try:
        return load_settings(files_at(path))[1]
    except FileNotFoundError:
        return None


def _open_sealed(files: Files, max_shard_bytes: int, cache: CacheConfig | None) -> Store:
    data = files.read(MANIFEST_FILE)
    manifest = parse(data, files.path(MANIFEST_FILE), Manifest)
    check_manifest(files, MANIFEST_FILE, manifest, max_shard_bytes)
    contents = Contents(manifest)
    files.check_folders(contents.specs)
    contents.take_sums(load_sums(files, SUMS_FILE, contents))
    hash, chunks = digest(data), None
    if cache is not None and cache.folder is not None:
        chunks = ChunkCache(Path(cache.folder), int(cache.gib * 2**30), hash)
    return Store(files, hash, contents, chunks)


def _open_unsealed(files: Files, max_shard_bytes: int) -> Store:
    settings = load(files, SETTINGS_FILE, Settings)
    commits = {unit: load_commit(files, unit) for unit in list_units(files, UNIT_COMMITS)}
    contents = assemble(settings, load_end(files), commits)
    if contents is None:
        raise UserError(
            f"found nothing in {files.path()} yet; expected a unit that is harvested; wait for one"
        )
    check_manifest(files, SETTINGS_FILE, contents.manifest, max_shard_bytes)
    files.check_folders(contents.specs)
    return Store(files, "", contents)
