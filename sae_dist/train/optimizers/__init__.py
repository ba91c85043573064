"""Optimizers: one file each, and what is remembered of the weights themselves."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.train.optimizers.adam import Adam as Adam
    from sae_dist.train.optimizers.average import WeightAverage as WeightAverage
    from sae_dist.train.optimizers.config import OPTIMIZERS as OPTIMIZERS
    from sae_dist.train.optimizers.config import OptimConfig as OptimConfig
    from sae_dist.train.optimizers.muon import Muon as Muon
    from sae_dist.train.optimizers.optimizer import Optimizer as Optimizer
    from sae_dist.train.optimizers.optimizer import Step as Step
    from sae_dist.train.optimizers.optimizer import gradient_norms as gradient_norms
    from sae_dist.train.optimizers.optimizer import project_gradient as project_gradient
    from sae_dist.train.optimizers.optimizer import update_cost as update_cost
    from sae_dist.train.optimizers.signum import Signum as Signum

lazily(__name__)
