"""What each file of a store holds: how many items of which array, and their checksums."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

import numpy as np

from sae_dist.store.arrays import TOKEN_ARRAYS, ArraySpec, array_specs
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.files import Files
from sae_dist.store.layout import Layout, is_held_out
from sae_dist.store.records import Manifest, UnitCommit

Value = TypeVar("Value")


class Contents:
    """All files of a store, as its manifest tells them.

    Attributes:
        manifest, layout, specs: that manifest, its grid and its arrays.
        is_held_out: bool [units].
        items: of each array (by path) how many items are in each unit's file, int64 [units].
        first_chunk: of each array the number of each unit's first chunk, int64 [units + 1]: chunks
            are numbered through all files of an array.
        sums: of each array the CRC-32C of every chunk, uint32.
        unpublished: names that files have until they get their own, in a store not sealed.
    """

    def __init__(self, manifest: Manifest, commits: Mapping[int, UnitCommit] | None = None) -> None:
        """`commits` are those of the units that are there; of a sealed store all are."""
        self.manifest = manifest
        self.layout: Layout = manifest.layout
        self.specs = array_specs(manifest.settings.widths, self.layout, manifest.settings.dtype)
        numbers = range(self.layout.num_units)
        is_there = np.array([commits is None or unit in commits for unit in numbers], bool)
        share = manifest.settings.held_out
        self.is_held_out = np.array([is_held_out(unit, share) for unit in numbers], bool)
        starts = np.arange(len(numbers)) * self.layout.shard_sequences
        lengths = np.minimum(self.layout.num_sequences - starts, self.layout.shard_sequences)
        rows = np.array(manifest.rows, np.int64)
        self.has_file, self.items, self.first_chunk = {}, {}, {}
        for path, spec in self.specs.items():
            is_of_array = self._is_of_array(spec) & is_there
            self.has_file[path] = is_of_array
            self.items[path] = np.where(is_of_array, rows if spec.is_of_rows else lengths, 0)
            chunks = -(-self.items[path] // spec.chunk_items)
            self.first_chunk[path] = np.concatenate([[0], np.cumsum(chunks)])
        self.sums: dict[str, np.ndarray] = {}
        self._tokens = {unit: commit.token for unit, commit in (commits or {}).items()}
        self.unpublished = {
            spec.unpublished(unit, self._tokens[unit])
            for spec, unit in self.files()
            if unit in self._tokens
        }

    @property
    def num_sums(self) -> int:
        """Chunks of all arrays."""
        return sum(int(first[-1]) for first in self.first_chunk.values())

    def take_sums(self, data: bytes) -> None:
        """Take the chunks' checksums from where they stand one after the other, by array."""
        all_sums, start = np.frombuffer(data, "<u4"), 0
        for path, first in self.first_chunk.items():
            self.sums[path] = all_sums[start : start + int(first[-1])]
            start += int(first[-1])

    def sums_of(self, path: str, unit: int) -> np.ndarray:
        """The checksums of the chunks in one file."""
        first = self.first_chunk[path]
        return self.sums[path][first[unit] : first[unit + 1]]

    def read(self, spec: ArraySpec, unit: int, read: Callable[[str], Value]) -> Value:
        """What `read` gives of one file by its name, which it may get only just now."""
        name = spec.file(unit)
        if (token := self._tokens.get(unit)) is None:
            return read(name)
        with suppress(FileNotFoundError):
            return read(name)
        with suppress(FileNotFoundError):
            return read(spec.unpublished(unit, token))
        return read(name)

    def files(self) -> Iterator[tuple[ArraySpec, int]]:
        """(array, unit) of every file."""
        for path, spec in self.specs.items():
            for unit in np.flatnonzero(self.has_file[path]).tolist():
                yield spec, unit

    def _is_of_array(self, spec: ArraySpec) -> np.ndarray:
        if spec.path in TOKEN_ARRAYS:
            return np.ones_like(self.is_held_out)
        return self.is_held_out ^ spec.is_of_rows


def check_manifest(files: Files, name: str, manifest: Manifest, max_shard_bytes: int) -> None:
    """Raise FaultError for what contradicts itself, or would lead out of memory."""

    def refuse(found: str, expected: str) -> None:
        raise FaultError(Fault(path=files.path(name), found=f"with {found}", expected=expected))

    layout, widths = manifest.layout, manifest.settings.widths
    if layout.shard_sequences % layout.chunk_sequences:
        refuse(f"{layout}", "shards of whole chunks")
    for spec in array_specs(widths, layout, manifest.settings.dtype).values():
        if spec.shard_bytes > max_shard_bytes:
            refuse(
                f"{spec.shard_bytes} bytes a shard in {spec.path}",
                f"at most {max_shard_bytes} (raise max_shard_gib if larger ones are meant)",
            )
    if len(manifest.rows) != layout.num_units:
        refuse(f"rows of {len(manifest.rows)} units", f"{layout.num_units}")
    if max(manifest.rows) > layout.unit_rows:
        refuse(f"{max(manifest.rows)} rows in a unit", f"at most {layout.unit_rows}")
    sizes = {site: len(statistics.sum) for site, statistics in manifest.statistics.items()}
    if sizes != dict(widths):
        refuse(f"statistics of {sizes}"[:200], f"{dict(widths)}"[:200])
