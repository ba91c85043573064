"""Files that are either whole or absent: atomic writes, claims, checksums."""

import json
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import crc32c as checksums

_BLOCK_BYTES = 1 << 22


def fsync_path(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stage(path: Path, parts: Iterable[bytes | memoryview]) -> Path:
    """Write `parts`, one after the other, to disk beside `path`; return the temporary file."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:  # a full disk gets its space back
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise
    return temporary


def _publish(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    fsync_path(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a crash leaves either the old file or the new one."""
    _publish(stage(path, [data]), path)


def write_all(
    files: Iterable[tuple[Path, Iterable[bytes | memoryview]]],
    condition: Callable[[], object] = lambda: None,
) -> None:
    """Write each (path, parts), and give all files their names once `condition` has returned.

    No temporary file is left if it, or the writing of one, raises an exception.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, parts in files:
            staged[path] = stage(path, parts)
        condition()
        for path, temporary in staged.items():
            _publish(temporary, path)
    except Exception:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        raise


def claim(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it exists; of many claimants exactly one gets True."""
    temporary = stage(path, [data])
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:  # taken for a leftover and swept up by another process
        return claim(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)
    return True


def to_json(value: Any) -> bytes:
    """JSON with sorted keys, readable, ending in a newline: equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as JSON."""
    write_atomic(path, to_json(value))


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_bytes())


def crc32c(path: Path) -> str:
    """CRC-32C of a whole file, as eight hexadecimal digits."""
    value = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            value = checksums.crc32c(block, value)
    return f"{value:08x}"
