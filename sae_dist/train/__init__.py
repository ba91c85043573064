"""Training a ladder of coders on one stream of activations."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.common.errors import Preempted
    from sae_dist.train.config import LoopConfig, Resume, RungConfig, WatchConfig
    from sae_dist.train.fingerprint import check_alike
    from sae_dist.train.loop import Evaluate, TrainingRun
    from sae_dist.train.optimizers import (
        AdamConfig,
        MuonConfig,
        OptimConfig,
        SignumConfig,
    )
    from sae_dist.train.rows import SharedRows
    from sae_dist.train.rung import Rung
    from sae_dist.train.signals import ending_signals
    from sae_dist.train.step import NonFiniteError, training_step
    from sae_dist.train.watch import Watch

__all__ = [
    "AdamConfig",
    "Evaluate",
    "LoopConfig",
    "MuonConfig",
    "NonFiniteError",
    "OptimConfig",
    "Preempted",
    "Resume",
    "Rung",
    "RungConfig",
    "SharedRows",
    "SignumConfig",
    "TrainingRun",
    "Watch",
    "WatchConfig",
    "check_alike",
    "ending_signals",
    "training_step",
]

lazily(__name__)
