"""What each file of a store holds, as its records tell: of which array what, and its checksums."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import reduce
from operator import add
from typing import TypeVar

import msgspec
import numpy as np

from sae_dist.store.files import Fault, FaultError, Files
from sae_dist.store.layout import TOKEN_ARRAYS, ArraySpec, Layout, is_held_out
from sae_dist.store.records import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS_END,
    Manifest,
    Settings,
    TokensEnd,
    UnitCommit,
    UnitTokens,
    commit_file,
    load,
    tokens_file,
)
from sae_dist.store.values import Statistics

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
        tokens: part of the names that a unit's files have until they get their own, in a store that
            is not sealed.
        unpublished: those names.
    """

    def __init__(self, manifest: Manifest, commits: Mapping[int, UnitCommit] | None = None) -> None:
        """`commits` are those of the units that are there; of a sealed store all are."""
        self.manifest = manifest
        self.layout: Layout = manifest.layout
        self.specs = manifest.settings.specs()
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
        self.tokens = {unit: commit.token for unit, commit in (commits or {}).items()}
        self.unpublished = {
            spec.unpublished(unit, self.tokens[unit])
            for spec, unit in self.files()
            if unit in self.tokens
        }

    @property
    def num_sums(self) -> int:
        """Chunks of all arrays."""
        return sum(int(first[-1]) for first in self.first_chunk.values())

    def all_sums(self) -> bytes:
        """The chunks' checksums one after the other, by array: SUMS.bin."""
        return b"".join(sums.tobytes() for sums in self.sums.values())

    def take_sums(self, data: bytes) -> None:
        """Take what `all_sums` gave, and let the manifest vouch for it."""
        digest = hashlib.sha256(data).hexdigest()
        self.manifest = msgspec.structs.replace(self.manifest, sums=digest)
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
        if (token := self.tokens.get(unit)) is None:
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
    if sizes != dict(widths):
        refuse(f"statistics of {sizes}"[:200], f"{dict(widths)}"[:200])


def load_sums(files: Files, name: str, contents: Contents) -> bytes:
    """The checksums of all chunks. Raises FaultError when they are not the manifest's."""
    path = files.path(name)
    try:
        sums = files.read(name)
    except FileNotFoundError as error:
        raise FaultError(Fault(path=path, found="missing", expected="checksums")) from error
    is_right = hashlib.sha256(sums).hexdigest() == contents.manifest.sums
    if not is_right or len(sums) != 4 * contents.num_sums:
        expected = "those of the manifest's chunks"
        raise FaultError(Fault(path=path, found="with other checksums", expected=expected))
    return sums


def load_settings(files: Files) -> tuple[str, Settings]:
    """(file, settings) of a started or sealed store. Raises FileNotFoundError if there is none."""
    try:
        return SETTINGS_FILE, load(files, SETTINGS_FILE, Settings)
    except FileNotFoundError:  # sealing writes the manifest before it removes the settings
        return MANIFEST_FILE, load(files, MANIFEST_FILE, Manifest).settings


def list_units(files: Files, folder: str) -> set[int]:
    """The units of which there are tokens (in TOKENS) or a commit (in UNIT_COMMITS)."""
    names = (name.removesuffix(".json") for name in files.list(folder))
    return {int(name) for name in names if name.isdigit()}


def load_commit(files: Files, unit: int) -> UnitCommit:
    """The commit of one unit. Raises FaultError when it is damaged, or another unit's."""
    commit, name = load(files, commit_file(unit), UnitCommit), commit_file(unit)
    if commit.unit != unit:
        found = f"to be of unit {commit.unit}"
        raise FaultError(Fault(path=files.path(name), found=found, expected="its own", unit=unit))
    return commit


def load_tokens(files: Files, unit: int) -> UnitTokens:
    """Raises FaultError for tokens that were altered, FileNotFoundError if there are none."""
    name = tokens_file(unit)
    try:
        return UnitTokens.decode(files.read(name))
    except ValueError as error:
        expected = "the tokens that were written"
        fault = Fault(path=files.path(name), found="altered", expected=expected, unit=unit)
        raise FaultError(fault) from error


def load_end(files: Files) -> TokensEnd | None:
    """What is known once all tokens are written."""
    return load(files, TOKENS_END, TokensEnd) if files.exists(TOKENS_END) else None


def assemble(
    settings: Settings, end: TokensEnd | None, commits: Mapping[int, UnitCommit]
) -> Contents | None:
    """What these units come to; statistics are added in order. None without commits and an end."""
    if end is None and commits:
        last = commits[max(commits)]
        num_sequences = last.unit * settings.shard_sequences + last.num_sequences
        end = TokensEnd(num_sequences=num_sequences, fingerprint={})
    if end is None:
        return None
    in_order = [commits[unit] for unit in sorted(commits)]
    training = [c for c in in_order if not is_held_out(c.unit, settings.held_out)]
    num_units = settings.layout(end.num_sequences).num_units
    manifest = Manifest(
        settings=settings,
        num_sequences=end.num_sequences,
        rows=[commits[unit].rows if unit in commits else 0 for unit in range(num_units)],
        statistics={
            site: reduce(add, (c.statistics[site] for c in training), Statistics.zero(width))
            for site, width in settings.widths.items()
        },
        dropped={
            site: num
            for site in settings.widths
            if (num := sum(commit.dropped.get(site, 0) for commit in in_order))
        },
        num_dropped=sum(commit.num_dropped for commit in in_order),
        fingerprint=end.fingerprint,
        sums="",
    )
    contents = Contents(manifest, commits)
    contents.take_sums(b"".join(commits[unit].sums[s.path] for s, unit in contents.files()))
    return contents
