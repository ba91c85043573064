"""The figures that training logs of a rung, as tensors on its device, and how they are read."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import FREQUENCY_EDGES, frequency_histogram
from sae_dist.common.figures import shown
from sae_dist.kernels.host import start_reading
from sae_dist.train.rung import Rung
from sae_dist.train.schedules import learning_rate, sparsity_coefficient
from sae_dist.train.step import StepResult


def rung_measures(rung: Rung, result: StepResult, step: int, num_steps: int) -> dict[str, Any]:
    """What is logged of a rung after a step; called by all its processes together."""
    config, forward = rung.config, result.forward
    measures: dict[str, Any] = {
        "loss": forward.loss,
        **{f"loss/{name}": part for name, part in forward.parts.items()},
        "fvu": forward.fvu,
        **{
            f"level_fvu/{share:g}": fvu
            for share, fvu in zip(config.coder.levels or (), forward.level_fvus, strict=False)
        },
        "l0": forward.l0,
        "dead_share": rung.count_dead() / config.coder.num_latents,
        "lr": learning_rate(config.optim, config.coder.num_latents, step, num_steps),
        "grad_norm": result.gradient_norm,
        "skipped_steps": rung.progress.counts_3[1],
        "bytes_per_step": result.bytes_sent,
    }
    if config.coder.penalty is not None:
        measures["sparsity_coefficient"] = sparsity_coefficient(config.coder, config.optim, step)
    return measures | rung.coder.logged()


def firing_frequency(rung: Rung) -> dict[str, Any]:
    """The firing-frequency histogram since the last call; called by all its processes together."""
    counters = rung.counters
    histogram = frequency_histogram(counters.fired_F, counters.window_tokens)
    counts = rung.mesh.latent.all_reduce(histogram)
    counters.restart_window()
    return {"edges_log10": FREQUENCY_EDGES, "never": counts[0], "counts": counts[1:]}


def postfix(figures: dict[str | None, dict[str, Any]]) -> str:
    """What a progress bar shows of the figures by rung, and of the ladder's, which are None's."""
    fvus = [measures["fvu"] for name, measures in figures.items() if name is not None]
    fvus = [fvu for fvu in fvus if math.isfinite(fvu)]
    spread = f"FVU {shown(min(fvus, default=None), '.3f')}"
    spread += f"–{max(fvus):.3f}" if len(fvus) > 1 else ""
    speed, stall = figures[None]["tokens_per_second"], figures[None]["stall_share"]
    return f"{spread}, {speed:,.0f} tokens/s, {stall:.0%} waiting"


def start_to_host(figures: dict[Any, Any]) -> Callable[[], dict[Any, Any]]:
    """Begin to make the same, at any depth of dicts, with numbers and lists for tensors.

    In one copy, for which only the call of what is returned waits.
    """
    tensors = list(_tensors(figures))
    if not tensors:
        return lambda: figures
    joined = start_reading(torch.cat([x.detach().flatten().double() for x in tensors]))
    sizes = [x.numel() for x in tensors]
    return lambda: _with_numbers(figures, iter(joined().split(sizes)))


def _tensors(figures: dict[str, Any]) -> Iterator[Tensor]:
    for value in figures.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _with_numbers(figures: dict[str, Any], values: Iterator[Tensor]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            read[name] = _with_numbers(value, values)
        elif isinstance(value, Tensor):
            read[name] = next(values).to(value.dtype).view(value.shape).tolist()
        else:
            read[name] = value
    return read
