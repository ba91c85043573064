"""Checkpoints of a training run: what is saved, how, and whether it is whole."""

from sae_dist.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from sae_dist.checkpoint.tensors import on_mesh

__all__ = ["CheckpointConfig", "Checkpoints", "on_mesh"]
