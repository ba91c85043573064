"""From settings to the optimizer that they are of."""

from sae_dist.coders import Coder
from sae_dist.train.optimizers.adam import Adam
from sae_dist.train.optimizers.config import OptimConfig
from sae_dist.train.optimizers.muon import Muon
from sae_dist.train.optimizers.optimizer import Optimizer
from sae_dist.train.optimizers.signum import Signum

_OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "signum": Signum, "muon": Muon}


def build_optimizer(coder: Coder, config: OptimConfig) -> Optimizer:
    """The optimizer of a coder. Raises UserError for a setting outside of its range."""
    return _OPTIMIZERS[config.name](coder, config)
