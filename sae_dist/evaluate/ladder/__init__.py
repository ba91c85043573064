"""What the rungs of a ladder say together, from their figures alone."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.ladder.comparison import comparison
    from sae_dist.evaluate.ladder.dead import dead_by_width
    from sae_dist.evaluate.ladder.runs import EvaluatedRun, compare_runs
    from sae_dist.evaluate.ladder.scaling import scaling_laws

__all__ = ["EvaluatedRun", "compare_runs", "comparison", "dead_by_width", "scaling_laws"]

lazily(__name__)
