"""How often a run is saved, and what is kept."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Save every `every_steps` steps, and keep the newest `keep` checkpoints (at least two).

    With `keep_every`, those of steps that it divides are kept for ever.
    """

    every_steps: int = setting(1000, min=1)
    keep: int = setting(2, min=2)
    keep_every: int | None = setting(None, min=1)
