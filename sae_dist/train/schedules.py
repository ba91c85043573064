"""Learning rate and sparsity coefficient as pure functions of the step."""

import math

from sae_dist.coders import CoderConfig
from sae_dist.train.config import OptimConfig

_REFERENCE_WIDTH = 2**14


def learning_rate(config: OptimConfig, num_latents: int, step: int, num_steps: int) -> float:
    """The rate of step `step` (from 0) of `num_steps`."""
    peak = config.lr
    if config.scale_lr_by_width:
        peak /= math.sqrt(num_latents / _REFERENCE_WIDTH)
    if step < config.warmup_steps:
        risen = (1 - math.cos(math.pi * step / config.warmup_steps)) / 2
        return peak * (config.warmup_start + (1 - config.warmup_start) * risen)
    decay_steps = config.decay_share * num_steps
    return peak * min(1.0, (num_steps - step) / decay_steps) if decay_steps else peak


def sparsity_coefficient(coder: CoderConfig, optim: OptimConfig, step: int) -> float:
    """λ of step `step` (from 0)."""
    warm = optim.sparsity_warmup_steps
    return coder.sparsity_coefficient * (min(1.0, step / warm) if warm else 1.0)
