"""Measuring trained coders on held-out activations, one file a measure."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.config import EvaluationConfig
    from sae_dist.evaluate.evaluator import VERSION, evaluate
    from sae_dist.evaluate.fidelity import Fidelity
    from sae_dist.evaluate.output import CoderOutput, run_coder
    from sae_dist.evaluate.subject import measures
    from sae_dist.evaluate.transfer import TransferConfig

__all__ = [
    "VERSION",
    "EvaluationConfig",
    "Fidelity",
    "CoderOutput",
    "TransferConfig",
    "evaluate",
    "measures",
    "run_coder",
]

lazily(__name__)
