"""The figures that training logs: of one rung, and of the whole ladder."""

import time
from typing import Any

from sae_dist.coders import FREQUENCY_EDGES, frequency_histogram
from sae_dist.train.rung import Rung
from sae_dist.train.schedules import learning_rate, sparsity_coefficient
from sae_dist.train.step import StepResult


def rung_measures(rung: Rung, result: StepResult, step: int, num_steps: int) -> dict[str, Any]:
    """What is logged of a rung after a step; called by all its processes together."""
    config, forward = rung.config, result.forward
    measures: dict[str, Any] = {
        "loss": float(forward.loss.detach()),
        **{f"loss/{name}": float(part) for name, part in forward.parts.items()},
        "fvu": float(forward.fvu),
        "l0": float(forward.l0),
        "dead_share": rung.num_dead() / config.coder.num_latents,
        "lr": learning_rate(config.optim, config.coder.num_latents, step, num_steps),
        "grad_norm": float(result.gradient_norm),
        "skipped_steps": rung.num_skipped,
        "bytes_per_step": result.bytes_sent,
    }
    if config.coder.penalty is not None:
        measures["sparsity_coefficient"] = sparsity_coefficient(config.coder, config.optim, step)
    return measures | config.coder.logged(rung.coder)


def firing_frequency(rung: Rung) -> dict[str, Any]:
    """The firing-frequency histogram since the last call; called by all its processes together."""
    counters = rung.counters
    histogram = frequency_histogram(counters.fired_F, counters.window_tokens)
    counts = rung.mesh.latent.all_reduce(histogram).tolist()
    counters.restart_window()
    return {"edges_log10": FREQUENCY_EDGES, "never": counts[0], "counts": counts[1:]}


class Throughput:
    """Tokens a second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, tokens: int) -> None:
        self._start = self._last = time.perf_counter()
        self._tokens = tokens
        self._waited = 0.0

    def read(self, tokens: int, waited: float) -> dict[str, float]:
        """The figures since the last call, from the running totals of tokens and seconds waited."""
        now = time.perf_counter()
        seconds = now - self._last
        measures = {
            "tokens_per_second": (tokens - self._tokens) / seconds,
            "stall_share": (waited - self._waited) / seconds,
            "seconds": now - self._start,
        }
        self._last, self._tokens, self._waited = now, tokens, waited
        return measures
