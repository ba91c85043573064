"""Optimizers: one file each, and what is remembered of the weights themselves."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.train.optimizers.adam import Adam
    from sae_dist.train.optimizers.average import WeightAverage
    from sae_dist.train.optimizers.config import OPTIMIZERS, OptimConfig
    from sae_dist.train.optimizers.muon import Muon
    from sae_dist.train.optimizers.optimizer import Optimizer, Step, gradient_squares
    from sae_dist.train.optimizers.signum import Signum

__all__ = [
    "OPTIMIZERS",
    "Adam",
    "Muon",
    "OptimConfig",
    "Optimizer",
    "Signum",
    "Step",
    "WeightAverage",
    "gradient_squares",
]

lazily(__name__)
