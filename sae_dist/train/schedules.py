"""Learning rate and sparsity coefficient as pure functions of the step, and what a run misses."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from sae_dist.coders.config import CoderConfig
from sae_dist.train.config import LoopConfig, RungConfig
from sae_dist.train.optimizers.config import OptimConfig

_REFERENCE_WIDTH = 2**14
_INTERVALS = (
    *("log.every_steps", "log.evaluate_every_steps"),
    *("checkpoint.every_steps", "watch.replicas_every_steps"),
)


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
    """λ of step `step` (from 0); 0 of a kind without a penalty."""
    warm = optim.sparsity_warmup_steps
    return (coder.penalty or 0.0) * (min(1.0, step / warm) if warm else 1.0)


def never_in_time(config: LoopConfig, rungs: Sequence[RungConfig], num_steps: int) -> Iterator[str]:
    """A line for each setting that needs a longer run than one of `num_steps`, each once."""
    num_tokens = num_steps * config.batch_tokens
    lines = (line for rung in rungs for line in _never_in_time(rung, num_steps, num_tokens))
    yield from dict.fromkeys(lines)
    late = {key: attrgetter(key)(config) for key in _INTERVALS}
    if told := [f"{key}={steps}" for key, steps in late.items() if steps and steps > num_steps]:
        yield f"of a run of {num_steps} steps, {', '.join(told)}: at its end alone"


def _never_in_time(rung: RungConfig, num_steps: int, num_tokens: int) -> Iterator[str]:
    coder, optim, run = rung.coder, rung.optim, f"of a run of {num_steps} steps"
    rise, fall = optim.warmup_steps, optim.decay_share * num_steps
    peak = learning_rate(replace(optim, warmup_steps=0, decay_share=0.0), coder.num_latents, 0, 1)

    def reached(step: int) -> str:
        rate = learning_rate(optim, coder.num_latents, step, num_steps)
        return f"{rate / peak:.2%} of its peak"

    if rise >= num_steps:
        yield f"optim.warmup_steps={rise} {run}: lr ends at {reached(num_steps - 1)}"
    elif rise > num_steps - fall:
        yield (
            f"optim.warmup_steps={rise} and optim.decay_share={optim.decay_share:g} {run}: lr "
            f"should fall before it has risen, and drops to {reached(rise)}"
        )
    warm = optim.sparsity_warmup_steps
    if coder.penalty is not None and warm >= num_steps:
        yield (
            f"optim.sparsity_warmup_steps={warm} {run}: λ ends at {(num_steps - 1) / warm:.2%} of "
            f"coder.sparsity_coefficient={coder.penalty:g}"
        )
    yield from (f"{setting} {run}: {what}" for setting, what in coder.unfinished(num_steps))
    if coder.num_aux and coder.dead_after_tokens >= num_tokens:
        yield (
            f"coder.dead_after_tokens={coder.dead_after_tokens} of a run of {num_tokens}: no "
            "latent counts as dead, so that AuxK does nothing"
        )
