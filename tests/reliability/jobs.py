"""Harvests in processes of their own, each a job without a launcher."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sae_dist.store import open_store, verify
from sae_dist.store.files import files_at
from sae_dist.store.records import MANIFEST_FILE, SETTINGS_FILE, UNIT_COMMITS
from tests.harvest.tiny import tiny_harvest

DEADLINE = 60.0
_PATIENCE = 600.0  # where nothing was promised: a busy machine takes minutes for imports alone


def job(path: Path, log: Path, pause: float = 0.0) -> None:
    """Harvest; `log` tells its beginning and each forward pass; each takes `pause` seconds more."""
    torch.set_num_threads(1)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stderr = os.fdopen(os.dup(said), "w", buffering=1)

    os.write(said, f"began {os.getpid()}\n".encode())

    def seen(ids_NS: torch.Tensor) -> None:
        os.write(said, f"pass {os.getpid()}\n".encode())
        time.sleep(pause)

    tiny_harvest(path, seen=seen)


def passes(log: Path) -> int:
    """How many forward passes all jobs ran."""
    return log.read_text().count("pass ")


def wait_until(condition: Callable[[], bool], seconds: float = _PATIENCE) -> float:
    """Seconds until it held; fails after so many."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.02)
    return time.monotonic() - begin


def committed(path: Path) -> list[int]:
    """Units that are committed, none while there is no store; all of a sealed one."""
    files = files_at(path)
    if files.exists(MANIFEST_FILE):
        return list(range(open_store(path).layout.num_units))
    return sorted(int(name[:-5]) for name in files.list(UNIT_COMMITS) if name[:-5].isdigit())


def torn(path: Path) -> list[str]:
    """What is not as commits or the manifest vouch for; none while there is no store."""
    was_sealed = (path / MANIFEST_FILE).exists()
    if not was_sealed and not (path / SETTINGS_FILE).exists():
        return []
    found = [str(fault) for fault in verify(path, full=True)]
    is_sealed = (path / MANIFEST_FILE).exists()
    return torn(path) if found and is_sealed and not was_sealed else found  # sealed meanwhile
