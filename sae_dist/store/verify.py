"""What it means that a store is whole, and a list of everything that is not.

The chunks' checksums and the layout say what every byte of every file is, so that nothing else is
compared: of each file its size, its chunks, the sum after each, and the index at its end.

A repair mends a store from what is whole in it; only activations and tokens come from elsewhere.
Files are replaced where they lie, each at once: one that was killed is simply started again.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.common.log import progress
from sae_dist.store.contents import Array, Contents, assemble, check_manifest
from sae_dist.store.files import Fault, Files, files_at, is_leftover
from sae_dist.store.layout import CRC_BYTES, TOKEN_ARRAYS
from sae_dist.store.reader import MAX_SHARD_BYTES, Store
from sae_dist.store.records import (
    COPIES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    TOKENS,
    TOKENS_END,
    UNIT_COMMITS,
    Manifest,
    Settings,
    Statistics,
    UnitCommit,
    commit_file,
    list_units,
    load,
    load_commit,
    load_end,
    load_tokens,
    tokens_file,
)
from sae_dist.store.unit import UNTRAINABLE, UnitFiles, unit_statistics

Value = TypeVar("Value")


@dataclass(kw_only=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        files: what reaches the store.
        is_sealed: whether it is sealed, or was.
        contents: what is vouched for by the seal, or by the units committed so far; None if that is
            not known.
        faults: all that is wrong, one a file.
        stopped_by: the one beyond which nothing could be looked at, if any.
        bad_files: those of `contents`, as (array, unit).
        bad_records: names of settings, commits, tokens, seals and metadata that are bad.
        leftovers: what killed writers left, which does no harm.
        num_files, num_bytes, seconds: looked at, read, taken.
    """

    files: Files
    is_sealed: bool
    contents: Contents | None = None
    faults: list[Fault] = field(default_factory=list)
    stopped_by: Fault | None = None
    bad_files: list[tuple[Array, int]] = field(default_factory=list)
    bad_records: list[str] = field(default_factory=list)
    leftovers: list[Path | str] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def num_units(self) -> int:
        """Units of the whole store, as far as is known."""
        return 0 if self.contents is None else self.contents.layout.num_units

    @property
    def num_committed(self) -> int:
        """Units that are committed by now, of a store that is not sealed."""
        return 0 if self.contents is None else len(self.contents.tokens)

    @property
    def bad_units(self) -> list[int]:
        """Units with a bad file."""
        return sorted({unit for _, unit in self.bad_files})

    @property
    def bad_tokens(self) -> list[int]:
        """Those of them whose tokens are bad."""
        return sorted({unit for array, unit in self.bad_files if array.spec.path in TOKEN_ARRAYS})

    def attempt(self, name: str, read: Callable[[], Value]) -> Value | None:
        """What `read` gives of a record; None, and a fault, if it is damaged or missing."""
        path = self.files.path(name)
        try:
            return read()
        except Fault as error:
            fault = error
        except FileNotFoundError:
            fault = Fault(path, "missing")
        except OSError as error:
            fault = Fault(path, f"unreadable ({error.strerror})", "a file that can be read")
        self.faults.append(fault)
        self.bad_records.append(name)
        return None


def verify(path: str | Path, full: bool = False, workers: int = 4) -> list[Fault]:
    """Everything wrong with a store, one fault a file; an empty list when it is whole.

    Without `full`: manifest, commits and metadata, and the size of every file. With `full` also
    every byte of every file, read by `workers` threads; this finds flipped bits and swapped files.
    Of a store that is not sealed, what is committed so far.
    """
    return audit(path, full=full, workers=workers).faults


def audit(
    path: str | Path, *, full: bool, workers: int, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Audit:
    """`verify`, with what the faults are about."""
    begun, files = time.perf_counter(), files_at(path)
    is_sealed = files.exists(MANIFEST_FILE) or files.exists(f"{COPIES}/{MANIFEST_FILE}")
    found = Audit(files=files, is_sealed=is_sealed)
    try:
        files.check_folders([UNIT_COMMITS, TOKENS, COPIES])
        if is_sealed:
            _look_at_seal(found, max_shard_bytes)
        elif files.exists(SETTINGS_FILE):
            _look_at_commits(found, max_shard_bytes)
        else:
            raise Fault(files.path(), "without a store", MANIFEST_FILE, "check the path")
        if found.contents is not None:
            _look_at_files(found, found.contents, full, workers)
    except Fault as fault:
        found.stopped_by = fault
        found.faults.append(fault)
    found.seconds = time.perf_counter() - begun
    return found


def _look_at_seal(found: Audit, max_shard_bytes: int) -> None:
    """Both copies of the manifest and of the sums; the first that is whole counts."""
    files = found.files
    names = (MANIFEST_FILE, f"{COPIES}/{MANIFEST_FILE}")
    manifests = [found.attempt(name, partial(load, files, name, Manifest)) for name in names]
    manifest = next(filter(None, manifests), None)
    if manifest is None:
        return
    check_manifest(files.path(MANIFEST_FILE), manifest, max_shard_bytes)
    contents = Contents(files, manifest)
    names = (SUMS_FILE, f"{COPIES}/{SUMS_FILE}")
    sums = [found.attempt(name, partial(contents.load_sums, name)) for name in names]
    if (whole := next((each for each in sums if each is not None), None)) is not None:
        contents.take_sums(whole)
        found.contents = contents
        for array in contents.arrays.values():
            found.attempt(array.spec.metadata_file, partial(_check_metadata, contents, array))
    if files.exists(SETTINGS_FILE):
        found.leftovers.append(files.path(SETTINGS_FILE))


def _check_metadata(contents: Contents, array: Array) -> None:
    files, name, expected = contents.files, array.spec.metadata_file, contents.metadata(array)
    if files.size(name) != len(expected) or files.read(name) != expected:  # huge ones are not read
        raise Fault(files.path(name), "altered", "the array's metadata")


def _look_at_commits(found: Audit, max_shard_bytes: int) -> None:
    """Settings, tokens and commits; a store that is not sealed has no metadata yet."""
    files = found.files
    settings = found.attempt(SETTINGS_FILE, partial(load, files, SETTINGS_FILE, Settings))
    if settings is None:
        return
    for unit in sorted(list_units(files, TOKENS)):
        found.attempt(tokens_file(unit), partial(load_tokens, files, unit))
    commits = {
        unit: commit
        for unit in sorted(list_units(files, UNIT_COMMITS))
        if (commit := found.attempt(commit_file(unit), partial(load_commit, files, unit)))
    }
    end = found.attempt(TOKENS_END, partial(load_end, files))
    if contents := assemble(files, settings, end, commits):
        check_manifest(files.path(SETTINGS_FILE), contents.manifest, max_shard_bytes)
        found.contents = contents


def _look_at_files(found: Audit, contents: Contents, full: bool, workers: int) -> None:
    each = list(contents.each_file())
    found.num_files = len(each)
    total = sum(array.file_bytes(unit) for array, unit in each)
    found.num_bytes = total if full else 0
    with (
        ThreadPoolExecutor(workers, "verify") as pool,
        progress(total=total, desc="verify", unit="B", unit_scale=True) as bar,
    ):
        faults = pool.map(lambda file: _fault_of(contents, full, *file), each)
        for (array, unit), fault in zip(each, faults, strict=True):
            if fault is not None:
                found.faults.append(fault)
                found.bad_files.append((array, unit))
            bar.update(array.file_bytes(unit))
    waiting = {
        array.spec.unpublished(unit, contents.tokens[unit])
        for array, unit in each
        if unit in contents.tokens
    }
    for path in contents.arrays:
        names = [f"{path}/{name}" for name in found.files.list(path) if is_leftover(name)]
        found.leftovers += [found.files.path(name) for name in names if name not in waiting]


def _fault_of(contents: Contents, full: bool, array: Array, unit: int) -> Fault | None:
    """What is wrong with one file; None where it is whole."""
    files, spec, num_bytes = contents.files, array.spec, array.file_bytes(unit)
    path, sums = files.path(spec.file(unit)), array.sums_of(unit).tolist()

    def check(name: str) -> None:
        if (size := files.size(name)) != num_bytes:
            raise Fault(path, f"with {size} bytes", f"{num_bytes} bytes")
        stored = np.empty(spec.chunk_bytes, np.uint8)
        for number, expected in enumerate(sums if full else ()):
            files.read_into(name, number * spec.chunk_bytes, stored)
            found = crc32c(stored[:-CRC_BYTES])
            if found != expected or int(stored[-CRC_BYTES:].view("<u4")[0]) != expected:
                place = f"chunk {number} of {len(sums)}"
                raise Fault(path, f"with {place} altered (crc32c {found:08x})", f"{expected:08x}")
        index = np.frombuffer(spec.index(int(array.items[unit])), np.uint8)
        if full:
            read = np.empty_like(index)
            files.read_into(name, len(sums) * spec.chunk_bytes, read)
            if not np.array_equal(read, index):
                raise Fault(path, "with its index altered", "that of its chunks")

    try:
        contents.read(spec, unit, check)
    except Fault as fault:
        return fault
    except FileNotFoundError:
        return Fault(path, "missing", f"{num_bytes} bytes")
    except OSError as error:
        return Fault(path, f"unreadable ({error})", f"{num_bytes} bytes")
    return None


class Repair:
    """What an audit calls for.

    Attributes:
        is_sealed: if not, `withdraw` is all there is to do, and the harvest goes on.
        bad_units: those whose activations are to be harvested again.
        bad_tokens: those of them whose tokens come from the text.
    """

    def __init__(self, audit: Audit) -> None:
        """Raises UserError when too much is lost to go by, and for a folder that is a link."""
        path = audit.files.path()
        if audit.stopped_by is not None:
            raise audit.stopped_by
        if audit.is_sealed and audit.contents is None:
            raise UserError(
                f"found {MANIFEST_FILE} or its sums damaged in {path}, and their copies; "
                "expected one whole; restore one from a copy of the store"
            )
        if SETTINGS_FILE in audit.bad_records:
            raise UserError(
                f"found damaged {SETTINGS_FILE} in {path}; expected it whole; restore it "
                "from a copy, or harvest into another path"
            )
        self.is_sealed, self.bad_units = audit.is_sealed, audit.bad_units
        self.bad_tokens = audit.bad_tokens
        self._files, self._contents = audit.files, audit.contents
        self._bad_records = audit.bad_records
        self._changed: dict[int, UnitCommit] = {}

    @property
    def contents(self) -> Contents:
        """What a sealed store's files hold."""
        assert self._contents is not None
        return self._contents

    @property
    def manifest(self) -> Manifest:
        """What vouches for a sealed store's units."""
        return self.contents.manifest

    def mend_records(self) -> None:
        """Write the seal, its copies and the arrays' metadata again."""
        self.contents.seal()

    def withdraw(self) -> None:
        """Have the bad units of a store that is not sealed count as not harvested."""
        for name in [*self._bad_records, *map(commit_file, self.bad_units)]:
            self._files.remove(name)

    def read_tokens(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n, S], trainable bool [n, S]) as they were before any was dropped."""
        sequences = self.contents.layout.sequences_of(unit)
        ids, marks = Store(self.contents).read_marked_tokens(sequences)
        return ids, marks != UNTRAINABLE

    def rewrite(
        self, unit: int, arrays: dict[str, np.ndarray], ids: np.ndarray, trainable: np.ndarray
    ) -> None:
        """Write a unit of a sealed store again; see `StoreWriter.write_unit`.

        Raises UserError, and changes no file, for other tokens than those that were harvested.
        """
        unit_files = UnitFiles(self._files, self.manifest.settings, unit)
        commit, all_arrays = unit_files.write(arrays, ids, trainable), self.contents.arrays
        expected = {path: all_arrays[path].sums_of(unit).tobytes() for path in commit.sums}
        is_same_text = all(commit.sums[path] == expected[path] for path in TOKEN_ARRAYS)
        unit_files.settle(is_committed=is_same_text)
        if not is_same_text:
            raise UserError(
                f"found another text, or other tokens to drop, in unit {unit}; expected those that "
                "were harvested; give the text that was harvested with text_path=…"
            )
        if commit.sums != expected:
            self._changed[unit] = commit

    def finish(self) -> bool:
        """Vouch for what was written; False where that is not what was there before.

        Then the statistics are summed anew, from all training units.
        """
        if not self._changed:
            return True
        for unit, commit in self._changed.items():
            for path, sums in commit.sums.items():
                self.contents.arrays[path].sums_of(unit)[:] = np.frombuffer(sums, "<u4")
        self.contents.take_sums(self.contents.all_sums())
        if not all(self.contents.is_held_out[unit] for unit in self._changed):
            self.contents.manifest = msgspec.structs.replace(
                self.manifest,
                statistics={site: self._statistics(site) for site in self.manifest.settings.widths},
            )
        self.contents.write_manifest()
        return False

    def _statistics(self, site: str) -> Statistics:
        """Of all training units, as sealing added them up."""
        store, settings = Store(self.contents), self.manifest.settings
        layout, total = store.layout, Statistics.zero(settings.widths[site])
        for unit in np.flatnonzero(~self.contents.is_held_out).tolist():
            sequences = layout.sequences_of(unit)
            shape = (len(sequences), layout.sequence_length)
            x_NSD = np.zeros((*shape, settings.widths[site])).astype(settings.dtype.storage)
            kept_NS = np.zeros(shape, bool)
            for chunk in np.flatnonzero(store.unit_of_chunk == unit).tolist():
                place = np.divmod(store.read_index(chunk), layout.sequence_length)
                place = (place[0] - sequences.start, place[1])
                x_NSD[place], kept_NS[place] = store.read_rows(site, chunk), True
            x = from_storage(x_NSD, settings.dtype)
            total += unit_statistics(settings, unit, site, x, kept_NS)
        return total
