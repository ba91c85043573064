"""Measuring trained coders on held-out activations, one file a measure."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.evaluate.candidates import Candidate as Candidate
    from sae_dist.evaluate.candidates import finished as finished
    from sae_dist.evaluate.config import EvaluationConfig as EvaluationConfig
    from sae_dist.evaluate.config import PairConfig as PairConfig
    from sae_dist.evaluate.config import TransferConfig as TransferConfig
    from sae_dist.evaluate.evaluator import evaluate as evaluate
    from sae_dist.evaluate.measure import LadderMeasure as LadderMeasure
    from sae_dist.evaluate.measure import Measure as Measure
    from sae_dist.evaluate.measure import PairMeasure as PairMeasure
    from sae_dist.evaluate.measure import Subject as Subject
    from sae_dist.evaluate.measures.fidelity import Fidelity as Fidelity
    from sae_dist.evaluate.output import CoderOutput as CoderOutput
    from sae_dist.evaluate.output import run_coder as run_coder
    from sae_dist.evaluate.registry import Needs as Needs
    from sae_dist.evaluate.results import read_evaluation as read_evaluation

lazily(__name__)
