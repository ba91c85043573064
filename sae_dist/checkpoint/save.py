"""Writing one checkpoint: what all ranks do together, in a thread beside the training."""

import shutil
import uuid
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from sae_dist.checkpoint.metadata import METADATA
from sae_dist.checkpoint.ranks import on_every_rank, on_first_rank
from sae_dist.checkpoint.seal import Sums, sums, write_record
from sae_dist.common.files import fsync_path


def write_checkpoint(
    group: dist.ProcessGroup, target: Path, tensors: dict[str, Tensor], about: dict[str, Any]
) -> None:
    """Write `target` beside its name and give it that name when it is whole, on all ranks.

    Every rank writes its tensors, forces them to disk and sums its own files up; the first one
    writes the record. What a save that fails leaves is removed: a full disk gets its space back.

    Raises:
        OSError: a file could not be written on some rank; the same on all.
        RuntimeError: anything else went wrong on one; the message holds its traceback.
    """
    temporary = on_first_rank(group, lambda: _make(beside(target)))
    try:
        # No copying ahead from a GPU: in a thread of its own torch would do it on the first one.
        writer = dcp.FileSystemWriter(temporary, sync_files=True, per_thread_copy_ahead=0)
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
        files = on_every_rank(group, lambda: _sums_of_rank(temporary, group.rank()))
        on_first_rank(group, lambda: _publish(temporary, target, files, about))
    except BaseException as error:
        if group.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, CheckpointException):
            raise
        if isinstance(first := first_failure(error), OSError):
            raise first from error
        raise RuntimeError(str(error)) from error


def beside(target: Path) -> Path:
    """A new name for `target` while it is made or removed; nothing with such a name is read."""
    return target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")


def remove(folder: Path) -> None:
    """Remove a checkpoint: first from sight, so that none is ever seen in parts."""
    hidden = beside(folder)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def first_failure(error: CheckpointException) -> BaseException:
    """What failed on the lowest rank that failed."""
    return error.failures[min(error.failures)][0]


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _sums_of_rank(folder: Path, rank: int) -> Sums:
    paths = sorted(folder.glob(f"__{rank}_*"))
    return sums([*paths, folder / METADATA] if rank == 0 else paths)


def _publish(temporary: Path, target: Path, files: list[Sums], about: dict[str, Any]) -> None:
    write_record(temporary, {name: file for part in files for name, file in part.items()}, about)
    replaced = beside(target) if target.exists() else None
    if replaced:
        target.rename(replaced)
    temporary.rename(target)
    fsync_path(target.parent)
    if replaced:
        shutil.rmtree(replaced)
