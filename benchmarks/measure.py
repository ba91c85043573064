"""What all timed steps share: activations, clock, memory, arguments. Needs torch alone."""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

D_IN, BATCH, K, L0 = 768, 4096, 32, 50
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_NUM_DIRECTIONS, _NUM_ACTIVE, _NUM_BATCHES = 4096, 32, 4
_SAMPLE_ROWS = 256


def activations() -> list[Tensor]:
    """Batches [B, D] of sparse combinations of random directions; the mean of ‖x‖² is 1."""
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(_NUM_DIRECTIONS, D_IN, generator=generator), dim=1)
    shape = (_NUM_BATCHES * BATCH, _NUM_ACTIVE)
    chosen = torch.randint(_NUM_DIRECTIONS, shape, generator=generator)
    weights = torch.rand(shape, generator=generator)
    x_ND = embedding_bag(chosen, directions, per_sample_weights=weights, mode="sum")
    x_ND /= x_ND.pow(2).sum(1).mean().sqrt()
    return [x_BD.clone() for x_BD in x_ND.to(DEVICE).chunk(_NUM_BATCHES)]


def sample(x_BD: Tensor) -> Tensor:
    """The rows on which thresholds are set and L0 is measured."""
    return x_BD[:_SAMPLE_ROWS]


def threshold_for(z_BF: Tensor, l0: int = L0) -> float:
    """The threshold that `l0` pre-activations a row exceed."""
    num_above = l0 * len(z_BF)
    return float(z_BF.detach().flatten().topk(num_above + 1).values[-1])


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@dataclass
class Clock:
    """Yields batches; the time from one being asked for to the next is a step's."""

    num_warmup: int
    num_steps: int
    ticks: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        batches = activations()
        for index in range(self.num_warmup + self.num_steps):
            self._tick()
            yield batches[index % len(batches)]
        self._tick()

    def _tick(self) -> None:
        synchronise()
        self.ticks.append(time.perf_counter())

    @property
    def ms(self) -> float:
        """The median step after the warm-up."""
        steps = [after - before for before, after in zip(self.ticks, self.ticks[1:], strict=False)]
        if len(steps) != self.num_warmup + self.num_steps:
            raise RuntimeError(f"{len(steps)} steps were taken")
        return statistics.median(steps[self.num_warmup :]) * 1e3


def peak_bytes() -> int:
    """The most memory this process held so far: on the device, or resident without one."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def arguments() -> argparse.Namespace:
    """The case to time, with `setting` applied: torch's matmul precision, or bf16 autocast."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", required=True)
    parser.add_argument("--num-latents", type=int, required=True)
    parser.add_argument("--setting", required=True, help="highest, medium or bf16, and +sparse")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    precision, _, extra = options.setting.partition("+")
    precision = {"float32": "highest", "bfloat16": "medium"}.get(precision, precision)
    options.is_sparse, options.is_bf16 = extra == "sparse", precision == "bf16"
    torch.set_float32_matmul_precision("highest" if options.is_bf16 else precision)
    options.clock = Clock(options.warmup, options.steps)
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
    x_BD = torch.randn(512, D_IN, generator=generator)
    W_FD = torch.randn(4096, D_IN, generator=generator)
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
