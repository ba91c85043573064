"""Files that are either whole or absent: atomic writes, claims, checksums."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

_BLOCK_BYTES = 1 << 22
_DISK_BYTES = 1 << 24


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
    with _cleared(temporary, path):
        write_new(temporary, parts)
    return temporary


def write_new(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts`, one after the other, to disk; nothing is there if that fails."""
    with _cleared(path, path), open(path, "xb") as file:
        _write(file, parts)
        os.fsync(file.fileno())


def _write(file: BufferedWriter, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts`, and let the disk begin with what is there while the next ones are made."""
    done = asked = 0
    for part in parts:
        done += file.write(part)
        if done - asked >= _DISK_BYTES and hasattr(os, "posix_fadvise"):  # not on a Mac
            file.flush()
            with suppress(OSError):  # it is advice: fsync tells what goes wrong
                os.posix_fadvise(file.fileno(), asked, done - asked, os.POSIX_FADV_DONTNEED)
            asked = done
    file.flush()


def _publish(temporary: Path, path: Path) -> None:
    with _cleared(temporary, path):
        os.replace(temporary, path)
        fsync_path(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a crash leaves either the old file or the new one."""
    _publish(stage(path, [data]), path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Where a library may write a file, or a new folder, that becomes `path` when it is whole.

    The folder that holds it is made. Of one within another the inner gets its name first.

    Raises:
        OSError: it could not be written; so told, too, if the library has an error of its own.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _cleared(temporary, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # of a process that was killed
        yield temporary
        fsync_path(temporary)
    _publish(temporary, path)


@contextmanager
def described_by(path: Path, value: Any) -> Iterator[None]:
    """Write `value` as JSON, but under its name only after what the block writes.

    Where the description is read first, its files are found all together, or those before.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_json(value))
        yield


@contextmanager
def _cleared(temporary: Path, path: Path) -> Iterator[None]:
    """Give a full disk its space back, and let the system's error name `path`."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            _remove(temporary)
        told = _system_error(error)
        if told is None:
            raise
        written = told.filename2 or told.filename or path  # the second one is a copy's target
        told.filename = str(written).replace(str(temporary), str(path))
        told.filename2 = None
        if told is error:
            raise
        raise told from error


def _system_error(error: BaseException) -> OSError | None:
    """What the system said: libraries raise errors of their own after it, or put it into words."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        if said := re.search(r"\(os error (\d+)\)", str(found)):  # safetensors, as all of Rust
            return OSError(int(said[1]), os.strerror(int(said[1])))
        found = found.__cause__ or found.__context__
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_all(files: Iterable[tuple[Path, Iterable[bytes | memoryview]]]) -> None:
    """Write each (path, parts), and give all files their names at the end.

    No temporary file is left if the writing of one raises an exception.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, parts in files:
            staged[path] = stage(path, parts)
        for path, temporary in staged.items():
            _publish(temporary, path)
    except Exception:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        raise


def create_exclusive(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it exists; of many claimants exactly one gets True."""
    temporary = stage(path, [data])
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:  # taken for a leftover and swept up by another process
        return create_exclusive(path, data)
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


def crc32c(data: "Buffer | np.ndarray[Any, Any]", start: int = 0) -> int:
    """The CRC-32C of `data`, which follows bytes whose own is `start`.

    Several threads do so at once: the library lets others run meanwhile.
    """
    from crc32c import crc32c  # a step of training needs none

    return crc32c(cast("Buffer", data), start)


def file_crc32c(path: Path) -> str:
    """CRC-32C of a whole file, as eight hexadecimal digits."""
    value = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            value = crc32c(block, value)
    return f"{value:08x}"
