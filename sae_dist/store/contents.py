"""What each file of a store holds, as its records tell: of which array what, and its checksums."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from sae_dist.common.files import to_json
from sae_dist.common.log import warn
from sae_dist.store.files import Fault, Files, is_leftover
from sae_dist.store.layout import ArraySpec
from sae_dist.store.records import (
    COPIES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    TOKENS,
    UNIT_COMMITS,
    Manifest,
    Settings,
    Statistics,
    TokensEnd,
    UnitCommit,
    dump,
)

Value = TypeVar("Value")


@dataclass(slots=True)
class Array:
    """What one array's files hold.

    Attributes:
        spec: how it is cut.
        has_file: bool [units].
        items: how many are in each unit's file, int64 [units].
        first_chunk: the number of each unit's first chunk, int64 [units + 1]: chunks are numbered
            through all files of an array.
        sums: the CRC-32C of every chunk, uint32.
    """

    spec: ArraySpec
    has_file: np.ndarray
    items: np.ndarray
    first_chunk: np.ndarray
    sums: np.ndarray

    def sums_of(self, unit: int) -> np.ndarray:
        """The checksums of the chunks in one file; a view."""
        return self.sums[self.first_chunk[unit] : self.first_chunk[unit + 1]]

    def file_bytes(self, unit: int) -> int:
        """Bytes of one file."""
        return self.spec.file_bytes(int(self.items[unit]))


class Contents:
    """All files of a store, as its manifest tells them.

    Attributes:
        files: what reaches them.
        manifest, layout, arrays: that manifest, its grid, and its arrays by path.
        is_held_out: bool [units].
        tokens: part of the names that a unit's files have until they get their own, in a store that
            is not sealed.
    """

    def __init__(
        self, files: Files, manifest: Manifest, commits: Mapping[int, UnitCommit] | None = None
    ) -> None:
        """`commits` are those of the units that are there; of a sealed store all are.

        Raises Fault for a folder that is a link.
        """
        self.files, self.manifest = files, manifest
        self.layout, settings = manifest.layout, manifest.settings
        numbers = range(self.layout.num_units)
        self.tokens = {unit: commit.token for unit, commit in (commits or {}).items()}
        is_there = np.array([commits is None or unit in commits for unit in numbers], bool)
        self.is_held_out = held_out = np.array([settings.is_held_out(u) for u in numbers], bool)
        lengths = np.array([len(self.layout.sequences_of(unit)) for unit in numbers], np.int64)
        rows, self.arrays = np.array(manifest.rows, np.int64), dict[str, Array]()
        for path, spec in settings.specs().items():
            has_file = is_there & np.where(held_out, spec.is_of(True), spec.is_of(False))
            items = np.where(has_file, rows if spec.is_of_rows else lengths, 0)
            first_chunk = np.concatenate([[0], np.cumsum(-(-items // spec.chunk_items))])
            no_sums = np.zeros(0, np.uint32)
            self.arrays[path] = Array(spec, has_file, items, first_chunk, no_sums)
        files.check_folders(self.arrays)

    def each_file(self) -> Iterator[tuple[Array, int]]:
        """(array, unit) of every file."""
        for array in self.arrays.values():
            for unit in np.flatnonzero(array.has_file).tolist():
                yield array, unit

    def read(self, spec: ArraySpec, unit: int, read: Callable[[str], Value]) -> Value:
        """What `read` gives of one file by its name, which it may get only just now."""
        name = spec.file(unit)
        if (token := self.tokens.get(unit)) is not None:
            for other in (name, spec.unpublished(unit, token)):
                with suppress(FileNotFoundError):
                    return read(other)
        return read(name)

    def all_sums(self) -> bytes:
        """The chunks' checksums one after the other, by array: SUMS.bin."""
        return b"".join(array.sums.tobytes() for array in self.arrays.values())

    def take_sums(self, data: bytes) -> None:
        """Take what `all_sums` gave, and let the manifest vouch for it."""
        digest = hashlib.sha256(data).hexdigest()
        self.manifest = msgspec.structs.replace(self.manifest, sums=digest)
        all_sums, start = np.frombuffer(bytearray(data), "<u4"), 0
        for array in self.arrays.values():
            array.sums = all_sums[start : start + int(array.first_chunk[-1])]
            start += len(array.sums)

    def load_sums(self, name: str) -> bytes:
        """What `all_sums` gave, from a file; Fault when the manifest does not vouch for it."""
        path = self.files.path(name)
        try:
            sums = self.files.read(name)
        except FileNotFoundError as error:
            raise Fault(path, "missing", "checksums") from error
        num_sums = sum(int(array.first_chunk[-1]) for array in self.arrays.values())
        is_right = hashlib.sha256(sums).hexdigest() == self.manifest.sums
        if not is_right or len(sums) != 4 * num_sums:
            raise Fault(path, "with other checksums", "those of the manifest's chunks")
        return sums

    def seal(self) -> None:
        """Write metadata and manifest of a store that has all files; remove what is not of it."""
        self.files.make_folders(self.arrays)
        for array in self.arrays.values():
            self.files.write(array.spec.metadata_file, self.metadata(array))
        self.write_manifest()
        clear_up(self.files, self.arrays)

    def metadata(self, array: Array) -> bytes:
        """An array's zarr.json."""
        return to_json(array.spec.metadata(self.layout))

    def write_manifest(self) -> None:
        """Write the seal, the copies first: a reader trusts what is under the first name."""
        self.files.make_folders([COPIES])
        for folder in (f"{COPIES}/", ""):
            self.files.write(folder + SUMS_FILE, self.all_sums())
            self.files.write(folder + MANIFEST_FILE, dump(self.manifest))

    def publish(self) -> None:
        """Give files their names whose writers were killed before it."""
        there = {path: set(self.files.list(path)) for path in self.arrays}
        for array, unit in self.each_file():
            name = array.spec.file(unit)
            if name.rpartition("/")[2] in there[array.spec.path]:
                continue
            try:
                self.files.rename(array.spec.unpublished(unit, self.tokens[unit]), name)
            except FileNotFoundError as error:
                if not self.files.exists(name):  # else another process seals, too
                    raise Fault(self.files.path(name), "missing", "what was committed") from error


def clear_up(files: Files, arrays: Iterable[str]) -> None:
    """Remove what a sealed store does not need: its commits, and what killed writers left.

    What another process is writing goes, too: it finds the store sealed then.
    """
    for folder in (UNIT_COMMITS, TOKENS):
        for name in files.list(folder):
            files.remove(f"{folder}/{name}")
    files.remove_folders([UNIT_COMMITS, TOKENS])
    files.remove(SETTINGS_FILE)
    left = [
        f"{folder}/{name}" if folder else name
        for folder in ("", COPIES, *arrays)
        for name in files.list(folder)
        if is_leftover(name)
    ]
    for name in left:
        files.remove(name)
    if left:
        told = files.path(left[0])
        warn(f"{len(left)} leftover files of killed writers removed (first: {told})")


def check_manifest(path: Path | str, manifest: Manifest, max_shard_bytes: int) -> None:
    """Raise Fault for what contradicts itself, or would lead out of memory."""

    def refuse(found: str, expected: str) -> None:
        raise Fault(path, f"with {found}", expected)

    layout, widths = manifest.layout, manifest.settings.widths
    if layout.shard_sequences % layout.chunk_sequences:
        refuse(f"{layout}", "shards of whole chunks")
    for spec in manifest.settings.specs().values():
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
    if sizes != widths:
        refuse(f"statistics of {sizes}"[:200], f"{widths}"[:200])


def assemble(
    files: Files, settings: Settings, end: TokensEnd | None, commits: Mapping[int, UnitCommit]
) -> Contents | None:
    """What these units come to; statistics are added in order. None without commits and an end."""
    in_order = [commits[unit] for unit in sorted(commits)]
    if end is None and in_order:
        last = in_order[-1]
        num_sequences = last.unit * settings.shard_sequences + last.num_sequences
        end = TokensEnd(num_sequences=num_sequences, fingerprint={})
    if end is None:
        return None
    training = [commit for commit in in_order if not settings.is_held_out(commit.unit)]
    num_units = settings.layout(end.num_sequences).num_units
    dropped = {site: sum(c.dropped.get(site, 0) for c in in_order) for site in settings.widths}
    manifest = Manifest(
        settings=settings,
        num_sequences=end.num_sequences,
        rows=[commits[unit].rows if unit in commits else 0 for unit in range(num_units)],
        statistics={
            site: reduce(add, (c.statistics[site] for c in training), Statistics.zero(width))
            for site, width in settings.widths.items()
        },
        dropped={site: num for site, num in dropped.items() if num},
        num_dropped=sum(commit.num_dropped for commit in in_order),
        fingerprint=end.fingerprint,
        sums="",
    )
    contents = Contents(files, manifest, commits)
    each = (commits[unit].sums[array.spec.path] for array, unit in contents.each_file())
    contents.take_sums(b"".join(each))
    return contents
