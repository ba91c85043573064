"""The folder of a run's checkpoints, and the protocol that keeps every visible one whole.

checkpoints/
  step-2000/                    complete: CHECKPOINT.json was written last, then the folder renamed
    CHECKPOINT.json             every file with its size and CRC-32C, `about`, its own CRC-32
    .metadata, __0_0.distcp …   tensors, by torch.distributed.checkpoint
  step-3000.tmp-<uuid>/         a save that did not finish: never read, removed at the next save
  latest                        the name of the newest complete checkpoint
  lock                          held by the process that writes here
"""

import re
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from sae_dist.checkpoint.config import CheckpointConfig
from sae_dist.checkpoint.lock import hold
from sae_dist.checkpoint.metadata import CheckedReader, read_metadata
from sae_dist.checkpoint.ranks import on_every_rank, on_first_rank
from sae_dist.checkpoint.save import first_failure, remove, write_checkpoint
from sae_dist.checkpoint.seal import RECORD, REMEDY, check_files, read_record
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.common.log import log_info
from sae_dist.common.settings import validate

LATEST = "latest"
_STEP = re.compile(r"step-(\d+)")
_UNFINISHED = re.compile(r"step-\d+\.tmp-[0-9a-f]+")
_PATIENCE = timedelta(hours=2)  # a rank may write that much longer than another
_LONG_SECONDS = 1.0


class Checkpoints:
    """The checkpoints of one run; the process that makes it keeps all other jobs out.

    `save` copies the tensors to host memory and returns; a thread writes them, while training goes
    on. It talks to the other ranks' over a process group of its own, so that its messages never mix
    with training's. Memory: one copy of this process' tensors on the host (pinned for GPUs), kept
    and filled again at every save.

    All is called by all processes together; what is there the first one sees for all, since a file
    server may show it to others later. A `with` around the training waits for the last save at its
    end.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        validate(config, "checkpoint.")
        self.folder, self.config = folder, config
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        on_first_rank(self._group, lambda: hold(folder))
        is_cuda = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=is_cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=is_cuda,
            )
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Begin to save `tensors` (DTensors, or tensors equal everywhere) and a JSON-able `about`.

        Both may change as soon as this returns. One save is in flight at a time: this waits for
        the one before.

        Raises:
            UserError: the save before failed.
        """
        began = time.perf_counter()
        self.finish()
        if (waited := time.perf_counter() - began) > _LONG_SECONDS:
            log_info(
                f"step {step} waited {waited:.1f} s for the checkpoint before it to be written; "
                "choose a larger checkpoint.every_steps"
            )
        staged = self._stager.stage(dict(tensors))
        assert isinstance(staged, dict)
        self._saving = self._thread.submit(self._write, step, staged, about)

    @property
    def is_idle(self) -> bool:
        """Whether no save is being written by this process."""
        return self._saving is None or self._saving.done()

    @property
    def has_failed(self) -> bool:
        """Whether the last save has failed, as `finish` or the next `save` will tell."""
        saving = self._saving
        return saving is not None and self.is_idle and saving.exception() is not None

    def finish(self) -> None:
        """Wait for the save in flight, if there is one.

        Raises:
            UserError: it failed, on this rank or another; checkpoints are as they were before it.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except Exception as failure:  # what ended the training matters more
            log_info(f"warning: {failure}")

    def latest(self) -> Path | None:
        """The newest complete checkpoint: the one `latest` names, or failing that the last."""
        return on_first_rank(self._group, self._newest)

    def open(self, path: Path) -> "OpenCheckpoint":
        """A checkpoint of this run."""
        return OpenCheckpoint(path, self._group)

    def _newest(self) -> Path | None:
        for path in self._unfinished():
            log_info(f"warning: {path} did not finish; it is not read, and goes at the next save")
        complete = complete_checkpoints(self.folder)
        pointer = self.folder / LATEST
        if (pointer.exists() or pointer.is_symlink()) and complete:
            named = _named(pointer, complete)
            if named:
                return named
            log_info(f"warning: {pointer} names no complete checkpoint; using {complete[-1].name}")
        return complete[-1] if complete else None

    def _write(self, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """In the thread, on every rank: save, let `latest` name it, remove what is not kept."""
        target = self.folder / f"step-{step}"
        try:
            on_first_rank(self._group, self._remove_unfinished)
            write_checkpoint(self._group, target, tensors, about)
            on_first_rank(self._group, lambda: self._move_latest(target))
        except OSError as error:
            raise UserError(
                f"{target} was not saved: {error}; mend that and start the command again: it goes "
                "on from the checkpoint before"
            ) from error

    def _move_latest(self, path: Path) -> None:
        write_atomic(self.folder / LATEST, path.name.encode())
        complete, every = complete_checkpoints(self.folder), self.config.keep_every
        for old in complete[: -self.config.keep]:
            is_for_ever = every is not None and _step(old) % every == 0
            if old != path and not is_for_ever:
                remove(old)

    def _remove_unfinished(self) -> None:
        for path in self._unfinished():
            shutil.rmtree(path)
        for path in self.folder.glob(f".{LATEST}.*.tmp"):
            path.unlink()

    def _unfinished(self) -> list[Path]:
        return [path for path in _folders(self.folder) if _UNFINISHED.fullmatch(path.name)]


class OpenCheckpoint:
    """A complete checkpoint; made and read by all of a group.

    Before anything but `about` is read, each rank checks its share of the files: torch opens none
    before all have been found to be as they were written.

    Attributes:
        about: what was said when it was saved.

    Raises:
        UserError: now or later; a file is missing, not as it was written, or not of our making.
    """

    def __init__(self, path: Path, group: dist.ProcessGroup | None = None) -> None:
        self._path, self._group = path, group
        record = on_first_rank(group, lambda: read_record(path))
        self._files, self.about = record["files"], record["about"]

    @cached_property
    def _metadata(self) -> Metadata:
        path, group, files = self._path, self._group, self._files
        share = sorted(files)[dist.get_rank(group) :: dist.get_world_size(group)]
        on_every_rank(group, lambda: check_files(path, {name: files[name] for name in share}))
        return on_first_rank(group, lambda: read_metadata(path, set(files)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor, by name."""
        stored = self._metadata.state_dict_metadata
        return {
            name: tuple(entry.size)
            for name, entry in stored.items()
            if isinstance(entry, TensorStorageMetadata)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Fill `tensors` in place. Memory: beside them one stored part of one tensor at a time."""
        reader = CheckedReader(self._path, self._metadata)
        try:
            dcp.load(dict(tensors), storage_reader=reader, process_group=self._group)
        except CheckpointException as error:
            reason = first_failure(error)
            raise UserError(f"{self._path} cannot be loaded: {reason}; {REMEDY}") from error


def complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, by step; links are not followed."""
    named = [path for path in _folders(folder) if _STEP.fullmatch(path.name)]
    return sorted((path for path in named if (path / RECORD).is_file()), key=_step)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _named(pointer: Path, complete: list[Path]) -> Path | None:
    """The one of `complete` that a pointer names; a link or anything but a file names none."""
    if pointer.is_symlink() or not pointer.is_file():
        return None
    name = pointer.read_bytes().strip()
    return next((path for path in complete if path.name.encode() == name), None)
