"""CHECKPOINT.json: every file of a checkpoint with its size and checksum."""

import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae_dist.common.errors import UserError
from sae_dist.common.files import file_crc32c, read_json, to_json, write_json

RECORD = "CHECKPOINT.json"
REMEDY = "remove that checkpoint to go on from an earlier one"
_READERS = 4  # files read at once by a process

Sums = dict[str, dict[str, Any]]


def sums(paths: Iterable[Path]) -> Sums:
    """Of each file its bytes and CRC-32C, by name."""
    return {
        path.name: {"bytes": path.stat().st_size, "crc32c": file_crc32c(path)} for path in paths
    }


def write_record(folder: Path, files: Sums, about: dict[str, Any]) -> None:
    """Write the record of a checkpoint's files, with a checksum of its own."""
    record = {"files": files, "about": about}
    write_json(folder / RECORD, {**record, "crc32": zlib.crc32(to_json(record))})


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint: `files` and `about`.

    Raises:
        UserError: it is not as it was written.
    """
    path = folder / RECORD
    with suppress(OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        record: dict[str, Any] = read_json(path)  # it may hold anything
        names = list(record["files"])
        is_plain = all(name == Path(name).name for name in names)
        if record.pop("crc32") == zlib.crc32(to_json(record)) and is_plain:
            return record
    raise UserError(f"{path} is not as it was written; {REMEDY}")


def check_files(folder: Path, files: Sums) -> None:
    """Read files of a checkpoint, several at once, and compare them with their record.

    Raises:
        UserError: one is missing or not as it was written.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        paths = [folder / name for name in files]
        faults = [fault for fault in pool.map(_fault, paths, files.values()) if fault]
    if faults:
        raise UserError(f"{faults[0]}; {REMEDY}")


def _fault(path: Path, record: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != record["bytes"]:
        return f"{path} has {path.stat().st_size} bytes, expected {record['bytes']}"
    if (found := file_crc32c(path)) != record["crc32c"]:
        return f"{path} has CRC-32C {found}, expected {record['crc32c']}"
    return None
