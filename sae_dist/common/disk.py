"""Whether what is to be written fits on the disk, and a line for when it cannot be written."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sae_dist.common.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)


def check_disk(path: str | Path, num_bytes: int) -> None:
    """Raise UserError unless `num_bytes` fit on the disk that holds (or would hold) `path`.

    Of an object store's URL nothing is known.
    """
    if "://" in str(path):
        return
    folder = _existing(path)
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"found {free / 1e9:.3g} GB free at {folder}; expected {num_bytes / 1e9:.3g} GB; "
            "free some, choose another path, or take fewer tokens or sites"
        )


def free_bytes(path: str | Path) -> int:
    """What is free on the disk that holds (or would hold) `path`."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: str | Path) -> Path:
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


@contextmanager
def explain_disk_errors(
    path: str | Path | None = None, bytes_needed: Callable[[], int] | None = None
) -> Iterator[None]:
    """Turn the error of a disk that is full, or may not be written, into one line for the user.

    Args:
        path: where it was to be written, if the error does not say.
        bytes_needed: asked then, if that is known: what is still to be written at `path`.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in _FULL:
            raise UserError(_full(error, path or where, bytes_needed)) from error
        if error.errno in _CLOSED and where is not None:
            raise UserError(
                f"found {where} refused by the system ({error.strerror}); expected a place that "
                "this user may read and write; choose another, or have its permissions or limits "
                "changed"
            ) from error
        raise


def _full(error: OSError, path: str | Path | None, bytes_needed: Callable[[], int] | None) -> str:
    if path is None:
        return f"{error.strerror}; expected more; free some and start the same command again"
    needed = "more"
    if bytes_needed is not None:
        with suppress(OSError):
            needed = f"{bytes_needed() / 1e9:.3g} GB"
    return (
        f"{error.strerror} for {error.filename or path}: found "
        f"{free_bytes(path) / 1e9:.3g} GB free; "
        f"expected {needed}; free some and start the same command again"
    )
