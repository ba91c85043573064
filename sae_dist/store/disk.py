"""Whether what is to be written fits on the disk."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sae_dist.common.errors import UserError


def check_disk(path: str | Path, num_bytes: int) -> None:
    """Raise UserError unless `num_bytes` fit on the disk that holds (or would hold) `path`."""
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
def tell_full_disk(path: Path, bytes_needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the error of a full disk, or of a used-up quota, into one line for the user.

    `bytes_needed` is asked then, if that is known: what is still to be written at `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = "more"
        if bytes_needed is not None:
            with suppress(OSError):
                needed = f"{bytes_needed() / 1e9:.3g} GB"
        raise UserError(
            f"{error.strerror} for {error.filename or path}: found "
            f"{free_bytes(path) / 1e9:.3g} GB free; "
            f"expected {needed}; free some and start the same command again"
        ) from error
