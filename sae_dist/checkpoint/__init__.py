"""Checkpoints of a training run: what is saved, how, and whether it is whole."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.checkpoint.checkpoints import Checkpoints as Checkpoints
    from sae_dist.checkpoint.checkpoints import OpenCheckpoint as OpenCheckpoint
    from sae_dist.checkpoint.checkpoints import complete_checkpoints as complete_checkpoints
    from sae_dist.checkpoint.config import CheckpointConfig as CheckpointConfig
    from sae_dist.checkpoint.tensors import on_mesh as on_mesh

lazily(__name__)
