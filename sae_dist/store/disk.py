"""Whether what is to be written fits on the disk."""

import shutil
from pathlib import Path

from sae_dist.common.errors import UserError


def check_disk(path: str | Path, num_bytes: int) -> None:
    """Raise UserError unless `num_bytes` fit on the disk that holds (or would hold) `path`."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"found {free / 1e9:.3g} GB free at {folder}; expected {num_bytes / 1e9:.3g} GB; "
            "free some, choose another path, or take fewer tokens or sites"
        )
