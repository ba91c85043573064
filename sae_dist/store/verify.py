"""What it means that a store is whole, and a list of everything that is not."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from sae_dist.common.log import progress
from sae_dist.store.allowed import MAX_SHARD_BYTES, metadata_fault, size_fault
from sae_dist.store.arrays import array_specs
from sae_dist.store.checksum import crc32
from sae_dist.store.fault import Fault
from sae_dist.store.links import all_linked_folders
from sae_dist.store.schema import MANIFEST_FILE, SETTINGS_FILE, FileRecord
from sae_dist.store.survey import Survey, survey

_LEFTOVERS = (".*.tmp", "*.partial")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What an audit found: `faults`, and how much it looked at, in `seconds`.

    `num_bytes` are those of files whose checksum was computed. `leftovers` of killed writers do no
    harm.
    """

    survey: Survey
    faults: list[Fault]
    leftovers: list[Path]
    num_files: int
    num_bytes: int
    seconds: float


def verify(path: str | Path, full: bool = False, workers: int = 4) -> list[Fault]:
    """Everything wrong with a store, one fault a file; an empty list when it is whole.

    Without `full`: manifest, settings, commits and metadata, and the size of every file. With
    `full` also the CRC-32 of every whole file, read by `workers` threads; this finds flipped bits
    and swapped files. Of a store that is not sealed, what is committed so far.
    """
    return audit(path, full=full, workers=workers).faults


def audit(
    path: str | Path, *, full: bool, workers: int, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Audit:
    """`verify`, with what the faults are about."""
    root, begun = Path(path), time.perf_counter()
    if not any((root / name).exists() for name in (MANIFEST_FILE, SETTINGS_FILE)):
        fault = Fault(
            path=root, found="without a store", expected=MANIFEST_FILE, remedy="check the path"
        )
        return _nothing_read(root, [fault])
    if links := list(all_linked_folders(root)):
        return _nothing_read(root, links)
    found = survey(root, max_shard_bytes)
    records = found.records()
    sizes = {file: size_fault(root / file, record.bytes) for file, record in records.items()}
    faults = found.faults + _metadata_faults(found) + [f for f in sizes.values() if f is not None]
    right = {file: record for file, record in records.items() if sizes[file] is None}
    if full:
        faults += _checksum_faults(root, right, workers)
    return Audit(
        survey=found,
        faults=faults,
        leftovers=sorted(path for kind in _LEFTOVERS for path in root.rglob(kind)),
        num_files=len(records),
        num_bytes=sum(record.bytes for record in right.values()) if full else 0,
        seconds=time.perf_counter() - begun,
    )


def _nothing_read(root: Path, faults: list[Fault]) -> Audit:
    """Where these faults keep an audit from reading at all."""
    found = Survey(root=root)
    return Audit(survey=found, faults=faults, leftovers=[], num_files=0, num_bytes=0, seconds=0.0)


def _metadata_faults(found: Survey) -> list[Fault]:
    if found.settings is None or found.tokens is None:
        return []
    settings, layout = found.settings, found.settings.layout(found.tokens.num_sequences)
    specs = array_specs(settings.widths, settings.sequence_length, settings.dtype)
    faults = (metadata_fault(found.root, spec, layout) for spec in specs.values())
    return [fault for fault in faults if fault is not None]


def _checksum_faults(root: Path, records: dict[str, FileRecord], workers: int) -> list[Fault]:
    """Files whose bytes differ from the CRC-32 they were committed with, in order."""

    def check(file: str) -> Fault | None:
        path, expected = root / file, f"crc32 {records[file].crc32}"
        try:
            found = f"with crc32 {crc32(path)}"
        except OSError as error:
            found = f"unreadable ({error.strerror})"
        is_whole = found == f"with {expected}"
        return None if is_whole else Fault(path=path, found=found, expected=expected)

    total = sum(record.bytes for record in records.values())
    faults: dict[str, Fault | None] = {}
    with (
        ThreadPoolExecutor(workers) as pool,
        progress(total=total, desc="verify", unit="B", unit_scale=True) as bar,
    ):
        checks = {pool.submit(check, file): file for file in records}
        for done in as_completed(checks):
            faults[checks[done]] = done.result()
            bar.update(records[checks[done]].bytes)
    return [fault for file in records if (fault := faults[file]) is not None]
