"""Wheels of a package index as mere archives: none of their code is run."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from sae_dist.common.errors import UserError


def user_cache() -> Path:
    """Where the XDG base directory specification has what can be fetched again."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sae_dist"


def download_wheels(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """The wheels of packages (`NAME==VERSION`), without what they depend on, in the same order.

    pip fetches them as the user has set it up: its index, its proxy, its certificates.

    Raises:
        UserError: with pip's last words, if it cannot.
    """
    options = ("--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download")
    done = subprocess.run([*pip, *options, *packages], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"pip: {(done.stderr.strip().splitlines() or ['no more is said'])[-1]}")
    starts = [package.partition("==")[0].replace("-", "_") for package in packages]
    return [next(folder.glob(f"{start}-*.whl")) for start in starts]


def sha256_of(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
