"""Activations for training, in an order that a seed fixes, and for evaluation."""

from sae_dist.stream.ahead import Ahead
from sae_dist.stream.batches import Batch, Batches, StreamState
from sae_dist.stream.held_out import HeldOutBatch, held_out
from sae_dist.stream.in_memory import ActivationsInMemory, RowStream
from sae_dist.stream.order import TokenOrder
from sae_dist.stream.source import ActivationSource, StoredActivations
from sae_dist.stream.stream import (
    ActivationStream,
    StreamConfig,
    check_config,
    memory_bound,
)

__all__ = [
    "ActivationSource",
    "ActivationStream",
    "ActivationsInMemory",
    "Ahead",
    "Batch",
    "Batches",
    "HeldOutBatch",
    "RowStream",
    "StoredActivations",
    "StreamConfig",
    "StreamState",
    "TokenOrder",
    "check_config",
    "held_out",
    "memory_bound",
]
