"""Measuring trained coders on held-out activations, one file a measure."""

from sae_dist.evaluate.evaluator import EvaluationConfig, evaluate
from sae_dist.evaluate.fidelity import Fidelity
from sae_dist.evaluate.frequency import FiringFrequency
from sae_dist.evaluate.lm_loss import LMLoss

__all__ = ["EvaluationConfig", "Fidelity", "FiringFrequency", "LMLoss", "evaluate"]
