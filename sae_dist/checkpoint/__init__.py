"""Checkpoints of a training run: what is saved, how, and whether it is whole."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.checkpoint.checkpoints import (
        Checkpoints,
        OpenCheckpoint,
        complete_checkpoints,
    )
    from sae_dist.checkpoint.config import CheckpointConfig
    from sae_dist.checkpoint.tensors import on_mesh

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "OpenCheckpoint",
    "complete_checkpoints",
    "on_mesh",
]

lazily(__name__)
