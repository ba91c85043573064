"""How fast a run goes, and what it makes of its devices."""

import re
import time
from collections.abc import Sequence

import torch

from sae_dist.coders.flops import step_flops
from sae_dist.common.memory import peak_bytes
from sae_dist.parallel import World
from sae_dist.train.rung import Rung

_PEAK_FLOPS = {  # dense bfloat16 with float32 sums, from the vendors' data sheets
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "MI300X": 1307e12,
}


def peak_flops(device: str) -> float | None:
    """What a GPU of this name can do in a second at most; None where that is not known."""
    names = (name for name in _PEAK_FLOPS if re.search(rf"\b{name}\b", device))
    return _PEAK_FLOPS.get(next(names, ""))


class Speed:
    """Tokens and operations a second, the share of time spent waiting for data, and memory.

    Args:
        rungs: all of the run.
        batch_tokens: of a step.
        world: its devices are all like this process'.
        step: the next one.
    """

    def __init__(self, rungs: Sequence[Rung], batch_tokens: int, world: World, step: int) -> None:
        shapes = [(coder.config, coder.d_in, coder.d_out) for coder in (r.coder for r in rungs)]
        self._step_flops = float(sum(sum(step_flops(*s, batch_tokens)) for s in shapes))
        self._step_tokens = batch_tokens
        self._device, self._is_cuda = world.device, world.device.type == "cuda"
        peak = peak_flops(torch.cuda.get_device_name(world.device)) if self._is_cuda else None
        self._peak = None if peak is None else peak * world.size
        self._start = self._last = time.perf_counter()
        self._step, self._waited = step, 0.0

    def read(self, step: int, waited: float) -> dict[str, float]:
        """The figures since the last call; `waited` is the total of seconds waited for data."""
        now = time.perf_counter()
        seconds = now - self._last
        steps_per_second = (step - self._step) / seconds
        flops = steps_per_second * self._step_flops
        figures = {
            "tokens_per_second": steps_per_second * self._step_tokens,
            "stall_share": (waited - self._waited) / seconds,
            "seconds": now - self._start,
            "flops_per_second": flops,
            "peak_memory_gib": self._peak_memory() / 2**30,
        }
        if self._peak is not None:
            figures["mfu"] = flops / self._peak
        self._last, self._step, self._waited = now, step, waited
        return figures

    def _peak_memory(self) -> int:
        """The most bytes so far: of tensors on a GPU, or of all that the process holds."""
        if self._is_cuda:
            return torch.cuda.max_memory_allocated(self._device)
        return peak_bytes()
