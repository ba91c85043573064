"""Measuring trained coders on held-out activations, one file a measure."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.candidates import Candidate, finished
    from sae_dist.evaluate.config import EvaluationConfig, PairConfig, TransferConfig
    from sae_dist.evaluate.evaluator import evaluate
    from sae_dist.evaluate.measure import LadderMeasure, Measure, PairMeasure, Subject
    from sae_dist.evaluate.measures.fidelity import Fidelity
    from sae_dist.evaluate.output import CoderOutput, run_coder
    from sae_dist.evaluate.registry import Needs
    from sae_dist.evaluate.results import read_evaluation

__all__ = [
    "Candidate",
    "CoderOutput",
    "EvaluationConfig",
    "Fidelity",
    "LadderMeasure",
    "Measure",
    "Needs",
    "PairConfig",
    "PairMeasure",
    "Subject",
    "TransferConfig",
    "evaluate",
    "finished",
    "read_evaluation",
    "run_coder",
]

lazily(__name__)
