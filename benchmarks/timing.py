"""What all that is timed shares: activations, clock, memory, and a case of a step.

Needs torch alone.
"""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from sae_dist.common import memory

K, L0 = 32, 50  # what fires on a row: with TopK and BatchTopK, with JumpReLU
TEMPORARY = Path(tempfile.gettempdir())
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_NUM_DIRECTIONS, _NUM_ACTIVE, _NUM_BATCHES = 4096, 32, 4
_SAMPLE_ROWS = 256
_ERROR_WIDTH = 768
_NUM_WARMUP = 2
_MIN_STEPS, _MAX_STEPS = 2, 10


@lru_cache(maxsize=1)
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


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes, device included."""
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def in_turns(actions: dict[str, Callable[[], object]], num_turns: int) -> dict[str, list[float]]:
    """Seconds of each action, one after the other, after one turn to warm up."""
    turns = [{name: seconds_of(do) for name, do in actions.items()} for _ in range(num_turns + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in actions}


def median_seconds(action: Callable[[], object], num_turns: int = 3) -> float:
    """The median time of `action`, after one that is not counted."""
    return statistics.median(in_turns({"it": action}, num_turns)["it"])


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
        if self.num_steps < _MIN_STEPS:
            return False
        return (
            self.num_steps == _MAX_STEPS or self.ticks[-1] - self.ticks[_NUM_WARMUP] >= self.seconds
        )

    @property
    def num_steps(self) -> int:
        """Steps taken since the warm-up."""
        return len(self.ticks) - 1 - _NUM_WARMUP

    @property
    def ms(self) -> float:
        """The median step after the warm-up."""
        if self.num_steps < _MIN_STEPS:
            raise RuntimeError(f"{len(self.ticks) - 1} steps were taken, warm-up and all")
        ticks = self.ticks[_NUM_WARMUP:]
        return statistics.median(after - before for before, after in pairwise(ticks)) * 1e3


def peak_bytes() -> int:
    """The most memory this process held so far: on the device, or resident without one."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return memory.peak_bytes()


def matmul_for(setting: str) -> str:
    """Torch's matmul precision for a setting.

    `float32` and `bfloat16` are this project's precisions, as a run sets it for them; `medium` and
    `highest` are torch's own, and `bf16` is a peer's autocast around `highest`.
    """
    return {"float32": "highest", "bfloat16": "medium", "bf16": "highest"}.get(setting, setting)


@dataclass
class Case:
    """A step to time: its setting is applied, its batches are made and its clock is ready.

    Args:
        kind: topk, topk+auxk, batchtopk or jumprelu.
        num_latents: F.
        d_in: D.
        batch: B.
        setting: see `matmul_for`; `+sparse` if there is such an option.
        seconds: to time steps for.
        l0: what fires on a row; 0 is the kind's default.
    """

    kind: str
    num_latents: int
    d_in: int
    batch: int
    setting: str
    seconds: float = 10.0
    l0: int = 0

    def __post_init__(self) -> None:
        self.l0 = self.l0 or (L0 if self.kind == "jumprelu" else K)
        precision, _, extra = self.setting.partition("+")
        self.is_sparse, self.is_bf16 = extra == "sparse", precision == "bf16"
        torch.set_float32_matmul_precision(matmul_for(precision))
        batches = activations(self.d_in, self.batch)
        self.clock = Clock(batches, self.seconds)
        self.sample_BD = batches[0][:_SAMPLE_ROWS]  # thresholds are set and L0 is measured on it
        torch.manual_seed(0)


def time_program(module: str, **case: Any) -> dict[str, float]:
    """Time the steps that `module.time_steps(Case)` takes, which returns their L0 and more."""
    made = Case(**case)
    others = importlib.import_module(f"benchmarks.{module}").time_steps(made)
    clock = made.clock
    return {"ms": clock.ms, "num_steps": clock.num_steps, "peak_bytes": peak_bytes()} | others


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
