"""One coder beside another of the same site: which latents they share, and which are new."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.pairs.choose import neighbours
    from sae_dist.evaluate.pairs.compare import compare
    from sae_dist.evaluate.pairs.config import PairConfig

__all__ = ["PairConfig", "compare", "neighbours"]

lazily(__name__)
