"""Training a ladder of coders on one stream of activations."""

from sae_dist.train.ladder import build_ladder
from sae_dist.train.loop import LoopConfig, Preempted, TrainingRun
from sae_dist.train.optim import OptimConfig
from sae_dist.train.rows import SharedRows
from sae_dist.train.rung import Rung, RungConfig
from sae_dist.train.step import NonFiniteError, StepResult, training_step

__all__ = [
    "LoopConfig",
    "NonFiniteError",
    "OptimConfig",
    "Preempted",
    "Rung",
    "RungConfig",
    "SharedRows",
    "StepResult",
    "TrainingRun",
    "build_ladder",
    "training_step",
]
