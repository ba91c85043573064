"""Optimizers: one file each, and what is remembered of the weights themselves."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.train.optimizers.average import WeightAverage
    from sae_dist.train.optimizers.build import build_optimizer
    from sae_dist.train.optimizers.config import (
        OPTIMIZERS,
        AdamConfig,
        MuonConfig,
        OptimConfig,
        SignumConfig,
    )
    from sae_dist.train.optimizers.optimizer import Optimizer, gradient_squares

__all__ = [
    "OPTIMIZERS",
    "AdamConfig",
    "MuonConfig",
    "OptimConfig",
    "Optimizer",
    "SignumConfig",
    "WeightAverage",
    "build_optimizer",
    "gradient_squares",
]

lazily(__name__)
