"""The folder of a run's checkpoints, and the protocol that keeps every visible one whole.

checkpoints/
  step-2000/                    complete: CHECKPOINT.json was written last, then the folder renamed
    CHECKPOINT.json             every file with its size and CRC-32C, `about`, its own CRC-32
    .metadata, __0_0.distcp …   tensors, by torch.distributed.checkpoint
  step-3000.tmp-<uuid>/         a save that did not finish: never read, removed at the next save
  latest                        the name of the newest complete checkpoint
"""

import re
import shutil
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c, fsync_path, read_json, to_json, write_atomic, write_json
from sae_dist.common.log import say

RECORD, LATEST = "CHECKPOINT.json", "latest"
_REMEDY = "remove that checkpoint to go on from an earlier one"
_STEP = re.compile(r"step-(\d+)")


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Save every `every_steps` steps, and keep the newest `keep` checkpoints (at least two)."""

    every_steps: int = 1000
    keep: int = 2


class Checkpoints:
    """The checkpoints of one run. `save` and `load` are called by all processes together."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        if config.keep < 2:
            raise UserError(f"checkpoint.keep={config.keep}: keep at least 2 checkpoints")
        if config.every_steps < 1:
            raise UserError(f"checkpoint.every_steps={config.every_steps}: expected at least 1")
        self.folder, self.config = folder, config

    def save(self, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Save `tensors` (DTensors, or tensors equal everywhere) and the JSON-able `about`."""
        target = self.folder / f"step-{step}"
        temporary = target.with_name(f"{target.name}.tmp-{_agreed(uuid.uuid4().hex)}")
        if _is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            temporary.mkdir()
        dist.barrier()
        dcp.save(dict(tensors), checkpoint_id=temporary)
        if _is_first():
            _seal(temporary, about)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            fsync_path(self.folder)
            write_atomic(self.folder / LATEST, target.name.encode())
            self._retire()
        dist.barrier()

    def latest(self) -> Path | None:
        """The newest complete checkpoint: the one `latest` names, or failing that the last."""
        complete = self._complete()
        pointer = self.folder / LATEST
        if pointer.is_file() and complete:
            name = pointer.read_bytes().strip()
            named = [path for path in complete if path.name.encode() == name]
            if named:
                return named[0]
            say(f"warning: {pointer} names no complete checkpoint; using {complete[-1].name}")
        return complete[-1] if complete else None

    def about(self, path: Path) -> dict[str, Any]:
        """What was said about a checkpoint when it was saved.

        Raises:
            UserError: the record is not as it was written.
        """
        about: dict[str, Any] = _read_record(path)["about"]
        return about

    def load(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Fill `tensors` in place, after every file's checksum has been found right.

        Raises:
            UserError: a file is missing or not as it was written.
        """
        files = _read_record(path)["files"]
        found = _agreed(_first_fault(path, files) if _is_first() else None)
        if found:
            raise UserError(f"{found}; {_REMEDY}")
        dcp.load(dict(tensors), checkpoint_id=path)

    def _complete(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        steps = {path: _STEP.fullmatch(path.name) for path in self.folder.iterdir()}
        whole = [path for path, match in steps.items() if match and (path / RECORD).is_file()]
        return sorted(whole, key=lambda path: int(path.name.removeprefix("step-")))

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob("step-*.tmp-*"):
            shutil.rmtree(path)

    def _retire(self) -> None:
        for path in self._complete()[: -self.config.keep]:
            shutil.rmtree(path)


def _is_first() -> bool:
    return dist.get_rank() == 0


def _agreed(value: Any) -> Any:
    """The first process' value, on all."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _seal(folder: Path, about: dict[str, Any]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        fsync_path(path)
        files[path.name] = {"bytes": path.stat().st_size, "crc32c": crc32c(path)}
    record = {"files": files, "about": about}
    write_json(folder / RECORD, {**record, "crc32": zlib.crc32(to_json(record))})


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    with suppress(ValueError, LookupError, AttributeError, TypeError):  # it may hold anything
        record: dict[str, Any] = read_json(path)
        if record.pop("crc32") == zlib.crc32(to_json(record)):
            return record
    raise UserError(f"{path} is not as it was written; {_REMEDY}")


def _first_fault(folder: Path, files: dict[str, Any]) -> str | None:
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != record["bytes"]:
            return f"{path} has {path.stat().st_size} bytes, expected {record['bytes']}"
        if crc32c(path) != record["crc32c"]:
            return f"{path} has CRC-32C {crc32c(path)}, expected {record['crc32c']}"
    return None
