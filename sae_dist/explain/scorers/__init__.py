"""Scorers: one file each, which says what it asks a judge and what the answers are worth."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.explain.scorers.scorer import SCORERS as SCORERS
    from sae_dist.explain.scorers.scorer import Scorer as Scorer
    from sae_dist.explain.scorers.scorer import scorer_names as scorer_names

lazily(__name__)
