"""One coder beside another of the same site: which latents they share, and which are new."""

from sae_dist.evaluate.pairs.choose import neighbours
from sae_dist.evaluate.pairs.compare import PairConfig, compare

__all__ = ["PairConfig", "compare", "neighbours"]
