"""Reading a store for training, in an order fixed by manifest and seed, and for evaluation."""

from sae_dist.stream.held_out import HeldOutBatch, held_out
from sae_dist.stream.order import TokenOrder
from sae_dist.stream.source import ActivationSource, StoredActivations
from sae_dist.stream.stream import ActivationStream, Batch, StreamConfig, StreamState

__all__ = [
    "ActivationSource",
    "ActivationStream",
    "Batch",
    "HeldOutBatch",
    "StoredActivations",
    "StreamConfig",
    "StreamState",
    "TokenOrder",
    "held_out",
]
