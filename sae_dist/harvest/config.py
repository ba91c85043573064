"""How a harvest runs."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class HarvestLoopConfig:
    """How the language model is run.

    `batch_sequences` make one forward pass. They belong to what a shard is: another number may
    round differently.
    """

    batch_sequences: int = setting(16, min=1)
