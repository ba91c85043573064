"""Files that are either whole or absent: atomic writes, claims, checksums."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import google_crc32c

_BLOCK_BYTES = 1 << 22


def fsync_path(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a crash leaves either the old file or the new one."""
    os.replace(_write_temporary(path, data), path)
    fsync_path(path.parent)


def claim(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it exists; of many claimants exactly one gets True."""
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
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
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum.update(block)
    return str(checksum.hexdigest().decode())
