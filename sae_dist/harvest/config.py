"""How a harvest runs."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class HarvestLoopConfig:
    """How the language model is run, and when a process that gives no sign of life is given up.

    `batch_sequences` make one forward pass. They belong to what a shard is: another number may
    round differently.
    """

    batch_sequences: int = 16
    lock_seconds: float = 45.0
