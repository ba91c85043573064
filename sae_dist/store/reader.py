"""Reading a store that its manifest vouches for."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.store.allowed import (
    MAX_SHARD_BYTES,
    grid_problems,
    manifest_problems,
    metadata_fault,
    size_fault,
)
from sae_dist.store.arrays import INPUT_IDS, TRAINABLE, array_specs
from sae_dist.store.eight_bits import site_reader
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.layout import Layout
from sae_dist.store.links import linked_folders
from sae_dist.store.schema import MANIFEST_FILE, SETTINGS_FILE, Manifest, Settings, Statistics, load
from sae_dist.store.seal import assemble, load_tokens
from sae_dist.store.shards import ShardReader


class Store:
    """Activations and tokens by chunk; safe to read from many threads. Made by `open_store`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        specs = array_specs(manifest.widths, manifest.layout.sequence_length, manifest.dtype)
        records = {file: record for s in manifest.shards for file, record in s.files.items()}
        self._arrays = {
            name: ShardReader(path, spec, manifest.layout, records) for name, spec in specs.items()
        }
        self._activations = {
            site: site_reader(self._arrays, site, manifest.dtype) for site in manifest.sites
        }
        self._counts = np.zeros(manifest.layout.num_chunks, np.int64)
        for shard in manifest.shards:
            chunks = manifest.layout.chunks_of(shard.unit)
            self._counts[chunks.start : chunks.stop] = shard.trainable_per_chunk
        self._dropped = {
            shard.unit: np.array(shard.dropped.positions)
            for shard in manifest.shards
            if shard.dropped
        }

    @property
    def layout(self) -> Layout:
        """The grid of sequences, chunks and shards."""
        return self.manifest.layout

    @property
    def dtype(self) -> FloatDtype:
        """The format of the stored activations."""
        return self.manifest.dtype

    @property
    def sites(self) -> dict[str, int]:
        """Width of each site."""
        return self.manifest.widths

    def statistics(self, site: str) -> Statistics:
        """Sums over trainable tokens of training shards. Raises UserError like `read_chunk`."""
        self._require(site)
        return self.manifest.sites[site].statistics

    def read_chunk(self, site: str, chunk: int) -> np.ndarray:
        """Activations [n, p, d] of one chunk: n sequences, at p of their positions.

        They are in the storage dtype (`common.dtypes.from_storage`). Raises UserError for an
        unknown site or chunk, and for damage, naming file and chunk.
        """
        self._require(site)
        return self._activations[site].read_chunk(chunk)

    def read_chunk_into(self, site: str, chunk: int, out: np.ndarray) -> None:
        """Fill `out` [chunk_sequences, chunk_positions, d] by one chunk.

        There is no other copy, unless the store is in eight bits. `out` is of the storage dtype, in
        C order. Beyond a partial chunk there are fill values (NaN). Raises like `read_chunk`.
        """
        self._require(site)
        self._activations[site].read_chunk_into(chunk, out)

    def read_trainable(self, chunk: int) -> np.ndarray:
        """Which tokens of one chunk may be trained on, bool [n, p], dropped ones left out.

        Where the manifest counts all of them, nothing is read. Raises like `read_chunk`.
        """
        sequences = self.layout.sequences_of_chunk(chunk)
        positions = self.layout.positions_of_chunk(chunk)
        if self._counts[chunk] == len(sequences) * len(positions):
            return np.ones((len(sequences), len(positions)), bool)
        trainable = self._arrays[TRAINABLE].read_chunk(chunk)
        self._leave_out(trainable, sequences, positions)
        return trainable

    def read_sequences(self, site: str, sequences: range) -> np.ndarray:
        """Activations [n, S, d] of whole sequences of the store, in the storage dtype.

        Every chunk that holds a part of them is read: best ask for all sequences of a shard.
        Raises like `read_chunk`.
        """
        self._require(site)
        return self._activations[site].read_sequences(sequences)

    def read_tokens(self, sequences: range) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) of whole sequences, as `read_sequences`."""
        ids, trainable = (self._arrays[n].read_sequences(sequences) for n in (INPUT_IDS, TRAINABLE))
        self._leave_out(trainable, sequences, range(self.layout.sequence_length))
        return ids, trainable

    def training_chunks(self) -> list[int]:
        """Chunks of all shards that are not held out, in order."""
        held_out = set(self.manifest.held_out)
        return self._chunks(s.unit for s in self.manifest.shards if s.unit not in held_out)

    def held_out_chunks(self) -> list[int]:
        """Chunks of the held-out shards, in order."""
        held_out = set(self.manifest.held_out)
        return self._chunks(s.unit for s in self.manifest.shards if s.unit in held_out)

    def held_out_sequences(self) -> list[range]:
        """The sequences of the held-out shards, in order, in runs that share their chunks."""
        firsts = self.held_out_chunks()[:: self.layout.chunks_per_sequence]
        return [self.layout.sequences_of_chunk(chunk) for chunk in firsts]

    def trainable_counts(self) -> np.ndarray:
        """Trainable tokens of every chunk, int64 [num_chunks]; 0 where no shard is yet."""
        return self._counts.copy()

    def _leave_out(self, trainable: np.ndarray, sequences: range, positions: range) -> None:
        """Mark the dropped tokens among these sequences and positions."""
        size = self.layout.shard_sequences
        for unit in range(sequences.start // size, (sequences.stop - 1) // size + 1):
            if unit in self._dropped:
                row, column = np.divmod(self._dropped[unit], self.layout.sequence_length)
                row += unit * size - sequences.start
                column -= positions.start
                is_here = (row >= 0) & (row < len(sequences))
                is_here &= (column >= 0) & (column < len(positions))
                trainable[row[is_here], column[is_here]] = False

    def _chunks(self, units: Iterable[int]) -> list[int]:
        return [chunk for unit in units for chunk in self.layout.chunks_of(unit)]

    def _require(self, site: str) -> None:
        if site not in self.manifest.sites:
            raise UserError(
                f"found no site {site!r} in {self.path}; expected one of "
                f"{', '.join(self.manifest.sites)}; choose one or harvest it"
            )


def open_store(
    path: str | Path, *, unsealed: bool = False, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Store:
    """Open a sealed store after checking manifest, metadata and the size of every file.

    With `unsealed`, a store still being written opens with the shards committed so far. Raises
    UserError naming the first thing that is wrong, and for shards larger than `max_shard_bytes`.
    """
    root = Path(path)
    manifest = _manifest(root, unsealed, max_shard_bytes)
    if faults := list(_file_faults(root, manifest)):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}")
    return Store(root, manifest)


def _manifest(root: Path, unsealed: bool, max_shard_bytes: int) -> Manifest:
    """The manifest, or what it would be now; FaultError when it cannot be right."""
    path = root / MANIFEST_FILE
    if is_sealed := path.exists():
        manifest = load(path, Manifest)
    elif not (root / SETTINGS_FILE).exists():
        raise UserError(f"found no store at {root}; expected {MANIFEST_FILE}; check the path")
    elif not unsealed:
        raise UserError(
            f"found an unsealed store at {root}; expected {MANIFEST_FILE}; finish the harvest "
            "(open_store(…, unsealed=True) reads what is there)"
        )
    else:
        path, settings = root / SETTINGS_FILE, load(root / SETTINGS_FILE, Settings)
        _refuse(path, grid_problems(settings, load_tokens(root), max_shard_bytes))
        manifest = assemble(root, settings)
    _refuse(path, manifest_problems(manifest, is_sealed, max_shard_bytes))
    return manifest


def _refuse(path: Path, problems: Iterable[str]) -> None:
    for problem in problems:
        found, _, expected = problem.partition("; expected ")
        raise FaultError(Fault(path=path, found=f"with {found}", expected=expected))


def _file_faults(root: Path, manifest: Manifest) -> Iterator[Fault]:
    specs = array_specs(manifest.widths, manifest.layout.sequence_length, manifest.dtype)
    folders = list(linked_folders(root, specs))
    checks = chain(
        folders,
        (metadata_fault(root, spec, manifest.layout) for spec in specs.values()),
        (size_fault(root / f, r.bytes) for s in manifest.shards for f, r in s.files.items()),
    )
    return (fault for fault in checks if fault is not None)
