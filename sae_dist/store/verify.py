"""What it means that a store is whole, and a list of everything that is not.

The chunks' checksums and the layout say what every byte of every file is, so that nothing else is
compared: of each file its size, its chunks, the sum after each, and the index at its end.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from sae_dist.common.files import crc32c, to_json
from sae_dist.common.log import progress
from sae_dist.store.contents import (
    Contents,
    assemble,
    check_manifest,
    list_units,
    load_commit,
    load_sums,
    load_tokens,
)
from sae_dist.store.files import Fault, FaultError, Files, TooShortError
from sae_dist.store.layout import CRC_BYTES, ArraySpec
from sae_dist.store.location import files_at
from sae_dist.store.reader import MAX_SHARD_BYTES
from sae_dist.store.records import (
    COPIES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    TOKENS,
    TOKENS_END,
    UNIT_COMMITS,
    AnyRecord,
    Manifest,
    Settings,
    TokensEnd,
    commit_file,
    load,
    tokens_file,
)
from sae_dist.store.seal import is_leftover

Value = TypeVar("Value")
FOLDERS = ("commits", UNIT_COMMITS, TOKENS, COPIES)


@dataclass(kw_only=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        root: the store's folder.
        faults: all that is wrong, one a file.
        leftovers: what killed writers left, which does no harm.
        manifest: the seal, or what it would be of the units committed so far; None if neither is
            known.
        is_sealed, num_committed: whether it is sealed; else how many units are committed.
        bad_units, bad_tokens: units with a bad file, and those of them whose tokens are bad.
        bad_records: names of settings, commits, tokens and seals that are bad.
        num_files, num_bytes, seconds: looked at, read, taken.
    """

    root: Path | str
    files: Files
    faults: list[Fault] = field(default_factory=list)
    leftovers: list[Path | str] = field(default_factory=list)
    manifest: Manifest | None = None
    contents: Contents | None = None
    is_sealed: bool = False
    num_committed: int = 0
    bad_units: set[int] = field(default_factory=set)
    bad_tokens: set[int] = field(default_factory=set)
    bad_records: list[str] = field(default_factory=list)
    num_files: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def num_units(self) -> int:
        """Units of the whole store, as far as is known."""
        return 0 if self.manifest is None else self.manifest.layout.num_units

    def blame(self, name: str, found: str, expected: str, unit: int | None = None) -> None:
        """Note a fault of a file."""
        path = self.files.path(name)
        self.faults.append(Fault(path=path, found=found, expected=expected, unit=unit))
        if unit is not None:
            self.bad_units.add(unit)
            if name.startswith(("sequences/input_ids", "sequences/marks")):
                self.bad_tokens.add(unit)

    def load(self, name: str, kind: type[AnyRecord]) -> AnyRecord | None:
        """A file's record; None, and a fault, if it is damaged or missing."""
        return self.attempt(name, lambda: load(self.files, name, kind))

    def attempt(self, name: str, read: Callable[[], Value]) -> Value | None:
        """What `read` gives of a record; None, and a fault, if it is damaged or missing."""
        try:
            return read()
        except FileNotFoundError:
            self.blame(name, "missing", "the bytes that were committed")
        except FaultError as error:
            self.faults.append(error.fault)
        except OSError as error:
            self.blame(name, f"unreadable ({error.strerror})", "a file that can be read")
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
    found = Audit(root=files.path(), files=files)
    found.is_sealed = files.exists(MANIFEST_FILE) or files.exists(f"{COPIES}/{MANIFEST_FILE}")
    if not found.is_sealed and not files.exists(SETTINGS_FILE):
        found.faults.append(
            Fault(
                path=found.root,
                found="without a store",
                expected=MANIFEST_FILE,
                remedy="check the path",
            )
        )
        return found
    try:
        files.check_folders(FOLDERS)
        if found.is_sealed:
            _look_at_seal(found, max_shard_bytes)
        else:
            _look_at_commits(found, max_shard_bytes)
        if found.contents is not None:
            files.check_folders(found.contents.specs)
            _look_at_files(found, found.contents, full, workers)
    except FaultError as error:  # beyond which nothing can be looked at
        found.faults.append(error.fault)
    found.seconds = time.perf_counter() - begun
    return found


def _look_at_seal(found: Audit, max_shard_bytes: int) -> None:
    """Both copies of the manifest and of the sums; the first that is whole counts."""
    manifests = [found.load(name, Manifest) for name in (MANIFEST_FILE, _copy(MANIFEST_FILE))]
    whole = [manifest for manifest in manifests if manifest is not None]
    if not whole:
        return
    check_manifest(found.files, MANIFEST_FILE, whole[0], max_shard_bytes)
    found.manifest, contents = whole[0], Contents(whole[0])
    found.num_committed = found.num_units
    names = (SUMS_FILE, _copy(SUMS_FILE))
    sums = [found.attempt(n, partial(load_sums, found.files, n, contents)) for n in names]
    if (whole_sums := next((s for s in sums if s is not None), None)) is not None:
        contents.take_sums(whole_sums)
        found.contents = contents
        _look_at_metadata(found, contents)
    if found.files.exists(SETTINGS_FILE):
        found.leftovers.append(found.files.path(SETTINGS_FILE))


def _copy(name: str) -> str:
    return f"{COPIES}/{name}"


def _look_at_commits(found: Audit, max_shard_bytes: int) -> None:
    """Settings, tokens and commits; a store that is not sealed has no metadata yet."""
    files, settings = found.files, found.load(SETTINGS_FILE, Settings)
    if settings is None:
        return
    for unit in sorted(list_units(files, TOKENS)):
        found.attempt(tokens_file(unit), partial(load_tokens, files, unit))
    commits = {
        unit: commit
        for unit in sorted(list_units(files, UNIT_COMMITS))
        if (commit := found.attempt(commit_file(unit), partial(load_commit, files, unit)))
    }
    found.num_committed = len(commits)
    end = found.load(TOKENS_END, TokensEnd) if files.exists(TOKENS_END) else None
    if contents := assemble(settings, end, commits):
        found.manifest = contents.manifest
        check_manifest(files, SETTINGS_FILE, contents.manifest, max_shard_bytes)
        found.contents = contents


def _look_at_metadata(found: Audit, contents: Contents) -> None:
    for spec in contents.specs.values():
        expected = to_json(spec.metadata(contents.layout))
        try:
            is_as_long = found.files.size(spec.metadata_file) == len(expected)  # before it is read
            if not is_as_long or found.files.read(spec.metadata_file) != expected:
                found.blame(spec.metadata_file, "altered", "the array's metadata")
        except FileNotFoundError:
            found.blame(spec.metadata_file, "missing", "the array's metadata")
        except FaultError as error:
            found.faults.append(error.fault)


def _look_at_files(found: Audit, contents: Contents, full: bool, workers: int) -> None:
    files = list(contents.files())
    found.num_files = len(files)
    total = sum(spec.file_bytes(int(contents.items[spec.path][unit])) for spec, unit in files)
    faults: dict[int, str] = {}
    with (
        ThreadPoolExecutor(workers, "verify") as pool,
        progress(total=total, desc="verify", unit="B", unit_scale=True) as bar,
    ):
        checks = {
            pool.submit(_file_fault, found.files, contents, spec, unit, full): number
            for number, (spec, unit) in enumerate(files)
        }
        for done in as_completed(checks):
            spec, unit = files[checks[done]]
            if (fault := done.result()) is not None:
                faults[checks[done]] = fault
            bar.update(spec.file_bytes(int(contents.items[spec.path][unit])))
    for number in sorted(faults):
        spec, unit = files[number]
        said, expected = faults[number].split("; expected ")
        found.blame(spec.file(unit), said, expected, unit)
    found.num_bytes = total if full else 0
    for path in contents.specs:
        names = [f"{path}/{name}" for name in found.files.list(path) if is_leftover(name)]
        found.leftovers += [found.files.path(n) for n in names if n not in contents.unpublished]


def _file_fault(
    files: Files, contents: Contents, spec: ArraySpec, unit: int, full: bool
) -> str | None:
    """What is wrong with one file ("found; expected …"); None where it is whole."""
    expected_bytes = spec.file_bytes(int(contents.items[spec.path][unit]))

    def look(name: str) -> str | None:
        if (size := files.size(name)) != expected_bytes:
            return f"with {size} bytes; expected {expected_bytes} bytes"
        return next(_chunk_faults(files, name, contents, spec, unit), None) if full else None

    try:
        return contents.read(spec, unit, look)
    except FaultError as error:
        return f"{error.fault.found}; expected {error.fault.expected}"
    except FileNotFoundError:
        return f"missing; expected {expected_bytes} bytes"
    except (OSError, TooShortError) as error:
        return f"unreadable ({error}); expected {expected_bytes} bytes"


def _chunk_faults(
    files: Files, name: str, contents: Contents, spec: ArraySpec, unit: int
) -> Iterator[str]:
    """What in a file is not as its chunks' checksums and the layout say, in order."""
    num_items, sums = int(contents.items[spec.path][unit]), contents.sums_of(spec.path, unit)
    stored = np.empty(spec.chunk_bytes, np.uint8)
    for number, expected in enumerate(sums.tolist()):
        files.read_into(name, number * spec.chunk_bytes, stored)
        found = crc32c(stored[:-CRC_BYTES])
        if found != expected or int(stored[-CRC_BYTES:].view("<u4")[0]) != expected:
            place = f"chunk {number} of {len(sums)}"
            yield f"with {place} altered (crc32c {found:08x}); expected {expected:08x}"
    index = np.empty(spec.file_bytes(num_items) - len(sums) * spec.chunk_bytes, np.uint8)
    files.read_into(name, len(sums) * spec.chunk_bytes, index)
    if index.tobytes() != spec.index(num_items):
        yield "with its index altered; expected that of its chunks"
