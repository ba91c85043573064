"""Checkpoints whose tensors all have the value of their step."""

from pathlib import Path

import torch
from torch import Tensor

from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from tests.processes import alone


def tensors(value: float) -> dict[str, Tensor]:
    return {"rung/W": torch.full((6, 3), value), "rung/step": torch.tensor(value).double()}


def save(folder: Path, *steps: int) -> None:
    alone()
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
        for step in steps:
            checkpoints.save(step, tensors(step), {"step": step})


def load(folder: Path, path: Path | None = None) -> int:
    """The step of a checkpoint, by default the newest, all of whose tensors are that step's."""
    alone()
    checkpoints = Checkpoints(folder, CheckpointConfig())
    path = path or checkpoints.latest()
    assert path is not None
    found = tensors(-1.0)
    checkpoints.open(path).load(found)
    step = int(checkpoints.open(path).about["step"])
    assert all((tensor == step).all() for tensor in found.values())
    return step
