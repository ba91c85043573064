"""Activations for training, in an order that a seed fixes, and for evaluation."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.stream.batches import Batch as Batch
    from sae_dist.stream.batches import Batches as Batches
    from sae_dist.stream.batches import BatchPart as BatchPart
    from sae_dist.stream.batches import Step as Step
    from sae_dist.stream.batches import StreamState as StreamState
    from sae_dist.stream.config import StreamConfig as StreamConfig
    from sae_dist.stream.held_out import HeldOutBatch as HeldOutBatch
    from sae_dist.stream.held_out import HeldOutPart as HeldOutPart
    from sae_dist.stream.held_out import held_out as held_out
    from sae_dist.stream.held_out import in_batches as in_batches
    from sae_dist.stream.in_memory import ActivationsInMemory as ActivationsInMemory
    from sae_dist.stream.order import TokenOrder as TokenOrder
    from sae_dist.stream.prefetch import Prefetch as Prefetch
    from sae_dist.stream.source import ActivationSource as ActivationSource
    from sae_dist.stream.source import StoredActivations as StoredActivations
    from sae_dist.stream.stream import ActivationStream as ActivationStream
    from sae_dist.stream.stream import memory_bound as memory_bound

lazily(__name__)
