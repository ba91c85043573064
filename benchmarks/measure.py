"""What all timed steps share: activations, clock, memory, arguments. Needs torch alone."""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

K, L0 = 32, 50  # what fires on a row: with TopK and BatchTopK, with JumpReLU
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_NUM_DIRECTIONS, _NUM_ACTIVE, _NUM_BATCHES = 4096, 32, 4
_SAMPLE_ROWS = 256
_ERROR_WIDTH = 768
_NUM_WARMUP = 2
_LEAST_STEPS, _MOST_STEPS = 2, 10


def activations(d_in: int, batch: int) -> list[Tensor]:
    """Batches [B, D] of sparse combinations of random directions; the mean of ‖x‖² is 1."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(_NUM_DIRECTIONS, d_in, generator=generator), dim=1)
    shape = (_NUM_BATCHES * batch, _NUM_ACTIVE)
    chosen = torch.randint(_NUM_DIRECTIONS, shape, generator=generator)
    weights = torch.rand(shape, generator=generator)
    x_ND = embedding_bag(chosen, directions, per_sample_weights=weights, mode="sum")
    x_ND /= x_ND.pow(2).sum(1).mean().sqrt()
    return [x_BD.clone() for x_BD in x_ND.to(DEVICE).chunk(_NUM_BATCHES)]


def threshold_for(z_BF: Tensor, l0: int) -> float:
    """The threshold that `l0` pre-activations a row exceed."""
    num_above = l0 * len(z_BF)
    return float(z_BF.detach().flatten().topk(num_above + 1).values[-1])


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@dataclass
class Clock:
    """Yields batches; the time from one being asked for to the next is a step's.

    After two steps of warm-up it goes on for `seconds`, but for 2 steps at least and 10 at most.
    """

    batches: list[Tensor]
    seconds: float
    ticks: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        self._tick()
        while not self._is_enough():
            yield self.batches[(len(self.ticks) - 1) % len(self.batches)]
            self._tick()

    def _tick(self) -> None:
        synchronise()
        self.ticks.append(time.perf_counter())

    def _is_enough(self) -> bool:
        if self.num_steps < _LEAST_STEPS:
            return False
        return (
            self.num_steps == _MOST_STEPS
            or self.ticks[-1] - self.ticks[_NUM_WARMUP] >= self.seconds
        )

    @property
    def num_steps(self) -> int:
        """Steps taken since the warm-up."""
        return len(self.ticks) - 1 - _NUM_WARMUP

    @property
    def ms(self) -> float:
        """The median step after the warm-up."""
        if self.num_steps < _LEAST_STEPS:
            raise RuntimeError(f"{len(self.ticks) - 1} steps were taken, warm-up and all")
        ticks = self.ticks[_NUM_WARMUP:]
        return statistics.median(after - before for before, after in pairwise(ticks)) * 1e3


def peak_bytes() -> int:
    """The most memory this process held so far: on the device, or resident without one."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_for(setting: str) -> str:
    """Torch's matmul precision for a setting.

    `float32` and `bfloat16` are this project's precisions, as a run sets it for them; `medium` and
    `highest` are torch's own, and `bf16` is a peer's autocast around `highest`.
    """
    return {"float32": "highest", "bfloat16": "medium", "bf16": "highest"}.get(setting, setting)


def arguments() -> argparse.Namespace:
    """The case to time, with its setting applied, its batches made and its clock ready."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", required=True)
    parser.add_argument("--num-latents", type=int, required=True)
    parser.add_argument("--d-in", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument(
        "--setting", required=True, help="see `matmul_for`; +sparse if there is one"
    )
    parser.add_argument("--l0", type=int, help="what fires on a row (topk 32, jumprelu 50)")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time steps for")
    options = parser.parse_args()
    setting, _, extra = options.setting.partition("+")
    options.is_sparse, options.is_bf16 = extra == "sparse", setting == "bf16"
    options.l0 = options.l0 or (L0 if options.kind == "jumprelu" else K)
    torch.set_float32_matmul_precision(matmul_for(setting))
    batches = activations(options.d_in, options.batch)
    options.clock = Clock(batches, options.seconds)
    options.sample_BD = batches[0][:_SAMPLE_ROWS]  # thresholds are set and L0 is measured on it
    torch.manual_seed(0)
    return options


def show(clock: Clock, l0: float, **others: float) -> None:
    """Print what was measured as the one line of JSON that `run.py` reads."""
    result = {"ms": clock.ms, "num_steps": clock.num_steps, "l0": l0, "peak_bytes": peak_bytes()}
    print(json.dumps(result | others))


def product_error(precision: str) -> float:
    """The relative RMS error of a float32 product: 3e-7 is float32's, 2e-3 that of bf16 inputs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(512, _ERROR_WIDTH, generator=generator)
    W_FD = torch.randn(4096, _ERROR_WIDTH, generator=generator)
    z_BF = (x_BD.to(DEVICE) @ W_FD.to(DEVICE).T).cpu().double()
    torch.set_float32_matmul_precision(before)
    true_BF = x_BD.double() @ W_FD.double().T
    return float((z_BF - true_BF).norm() / true_BF.norm())


def machine() -> dict[str, Any]:
    """The processor, or the GPU, that steps are timed on, and how exact its products are."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    return {
        "processor": name,
        "gpu": torch.cuda.get_device_name() if DEVICE == "cuda" else "",
        "threads": torch.get_num_threads(),
        "product_error": {name: product_error(name) for name in ("highest", "medium")},
    }


if __name__ == "__main__":
    print(json.dumps(machine() | {"torch": str(torch.__version__)}))
