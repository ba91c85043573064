"""How often a run is saved, and what is kept."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Save every `every_steps` steps, and keep the newest `keep` checkpoints (at least two).

    With `keep_every`, those of steps that it divides are kept for ever.
    """

    every_steps: int = 1000
    keep: int = 2
    keep_every: int | None = None
