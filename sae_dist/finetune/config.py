"""How coders are finetuned on their language model's loss."""

from dataclasses import dataclass

from sae_dist.common.settings import setting
from sae_dist.train.config import LoopConfig


@dataclass(kw_only=True)  # slots of two bases would not fit together
class FinetuningConfig(LoopConfig):
    """How long and how fast: Adam with `lr`, risen over a twentieth of the steps, which falls to 0.

    `tokens` are those of all steps, specials counted; each step reads whole sequences.
    """

    tokens: int | None = setting(25_000_000, min=1)
    lr: float = setting(5e-5, above=0)
