"""Activations for training, in an order that a seed fixes, and for evaluation."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.stream.batches import Batch, Batches, BatchPart, Step, StreamState
    from sae_dist.stream.config import StreamConfig
    from sae_dist.stream.held_out import HeldOutBatch, HeldOutPart, held_out, in_batches
    from sae_dist.stream.in_memory import ActivationsInMemory
    from sae_dist.stream.order import TokenOrder
    from sae_dist.stream.prefetch import Prefetch
    from sae_dist.stream.source import ActivationSource, StoredActivations
    from sae_dist.stream.stream import ActivationStream, memory_bound

__all__ = [
    "ActivationSource",
    "ActivationStream",
    "ActivationsInMemory",
    "Prefetch",
    "Batch",
    "BatchPart",
    "Batches",
    "HeldOutBatch",
    "HeldOutPart",
    "Step",
    "StoredActivations",
    "StreamConfig",
    "StreamState",
    "TokenOrder",
    "held_out",
    "in_batches",
    "memory_bound",
]

lazily(__name__)
