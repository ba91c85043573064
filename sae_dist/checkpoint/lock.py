"""One job at a time in a run's folder of checkpoints."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info

LOCK = "lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_HELD_BY_OTHERS = {errno.EACCES, errno.EAGAIN}
_held: dict[Path, TextIO] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of `folder`, until this one ends.

    The lock is the kernel's (POSIX, by which NFS and Lustre lock between machines too), so that it
    goes with its process however that ends; what the file says is for people. A process may call
    this again. Where the file system has no locks, a warning says so.

    Raises:
        UserError: another process holds it.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK, "a+")  # noqa: SIM115 - closing it would give up the lock
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            log_info(f"warning: {folder} has no file locks: take care that one job alone uses it")
            return
        if error.errno not in _HELD_BY_OTHERS:
            raise
        file.seek(0)
        raise UserError(
            f"{folder} is in use by {file.read().strip() or 'another process'}; "
            "wait for it to end, or choose another run=NAME"
        ) from None
    job = os.environ.get("SLURM_JOB_ID")
    holder = f"process {os.getpid()} on {socket.gethostname()}" + (
        f", Slurm job {job}" if job else ""
    )
    file.truncate(0)
    file.write(f"{holder}\n")
    file.flush()
    _held[folder] = file
