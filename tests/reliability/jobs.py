"""Harvests in processes of their own, each a job without a launcher."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sae_dist.store import StoreWriter
from sae_dist.store.checksum import crc32
from sae_dist.store.schema import ShardCommit, commit_file, load
from tests.harvest.tiny import tiny_harvest

DEADLINE = 60.0
_PATIENCE = 600.0  # where nothing was promised: a busy machine takes minutes for imports alone


def job(path: Path, log: Path, pause: float = 0.0, lock_seconds: float = 45.0) -> None:
    """Harvest; `log` tells its beginning and each forward pass; each takes `pause` seconds more."""
    torch.set_num_threads(1)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stderr = os.fdopen(os.dup(said), "w", buffering=1)

    os.write(said, f"began {os.getpid()}\n".encode())

    def seen(ids_NS: torch.Tensor) -> None:
        os.write(said, f"pass {os.getpid()}\n".encode())
        time.sleep(pause)

    tiny_harvest(path, seen=seen, lock_seconds=lock_seconds)


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
    """Units that are committed, none while there is no store."""
    if not (path / "commits").is_dir():
        return []
    return sorted(int(f.stem) for f in (path / "commits").glob("[0-9]*.json"))


def torn(path: Path) -> list[str]:
    """Files that a commit vouches for and that are not what it says."""
    records = [load(path / commit_file(u), ShardCommit).files for u in committed(path)]
    return [
        name
        for files in records
        for name, record in files.items()
        if not (path / name).is_file()
        or (path / name).stat().st_size != record.bytes
        or crc32(path / name) != record.crc32
    ]


def lock(path: Path, name: str, **changes: Any) -> Path:
    """Write a lock as a process of another machine would have."""
    owner = {"host": "elsewhere", "boot": "b", "namespace": "n", "pid": 1, "started": 1, "job": "7"}
    file = path / "locks" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**owner, **changes}))
    return file


def with_tokens(writer: StoreWriter, blocks: Any, fingerprint: Any) -> Path:
    """A store whose tokens are written."""
    writer.write_tokens(blocks, fingerprint)
    return writer.path
