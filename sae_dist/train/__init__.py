"""Training a ladder of coders on one stream of activations."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.common.errors import Preempted
    from sae_dist.train.config import LoopConfig, Resume, RungConfig, WatchConfig
    from sae_dist.train.fingerprint import check_alike
    from sae_dist.train.ladder import build_ladder
    from sae_dist.train.loop import Evaluate, TrainingRun
    from sae_dist.train.optimizers import (
        Adam,
        Muon,
        OptimConfig,
        Optimizer,
        Signum,
        WeightAverage,
    )
    from sae_dist.train.progress import NonFiniteError
    from sae_dist.train.rows import SharedRows
    from sae_dist.train.rung import Rung
    from sae_dist.train.signals import ending_signals
    from sae_dist.train.step import StepResult, training_step
    from sae_dist.train.watch import Watch

__all__ = [
    "Adam",
    "Evaluate",
    "LoopConfig",
    "Muon",
    "NonFiniteError",
    "OptimConfig",
    "Optimizer",
    "Preempted",
    "Resume",
    "Rung",
    "RungConfig",
    "SharedRows",
    "Signum",
    "StepResult",
    "TrainingRun",
    "Watch",
    "WatchConfig",
    "WeightAverage",
    "build_ladder",
    "check_alike",
    "ending_signals",
    "training_step",
]

lazily(__name__)
