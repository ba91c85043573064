"""Imported where tests run: no test waits for a disk."""

import os


def _written(descriptor: int) -> None:
    """As os.fsync, but whether it reached the disk no test could tell: none pulls the plug."""
    os.fstat(descriptor)


os.fsync = _written
