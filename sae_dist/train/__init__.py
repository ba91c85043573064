"""Training a ladder of coders on one stream of activations."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.common.errors import Preempted
    from sae_dist.train.config import LoopConfig, OptimConfig, Resume, RungConfig, WatchConfig
    from sae_dist.train.fingerprint import check_alike
    from sae_dist.train.ladder import build_ladder
    from sae_dist.train.loop import TrainingRun
    from sae_dist.train.rows import SharedRows
    from sae_dist.train.rung import Rung
    from sae_dist.train.signals import ending_signals
    from sae_dist.train.step import NonFiniteError, StepResult, training_step
    from sae_dist.train.watch import Watch

__all__ = [
    "LoopConfig",
    "NonFiniteError",
    "OptimConfig",
    "Preempted",
    "Resume",
    "Rung",
    "RungConfig",
    "SharedRows",
    "StepResult",
    "TrainingRun",
    "Watch",
    "WatchConfig",
    "build_ladder",
    "check_alike",
    "ending_signals",
    "training_step",
]

lazily(__name__)
