"""What checkpoints cost a TopK coder's training: saved beside it, and waited for.

A round takes steps without saving, one save that is waited for, and one beside the steps that
follow; figures are medians over rounds. What a save costs training is the time of its call, and
what the steps beside it take beyond the median step without one, over the time of `every` steps.
"""

import statistics
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import Figure
from benchmarks.own import take_step
from benchmarks.timing import DEVICE, TEMPORARY, K, activations, seconds_of
from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from sae_dist.coders import TopK
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import Adam, Rung, RungConfig, SharedRows
from sae_dist.train.config import Precision

_IS_CUDA = DEVICE == "cuda"
SMOKE = {"widths": (64,), "d_in": 16, "batch": 32, "every": 10, "steps": 3, "rounds": 1}


def make_rung(world: World, num_latents: int, x_BD: torch.Tensor) -> Rung:
    """A TopK rung of the recipes' settings on a 1×1 mesh, with its first weights."""
    config = RungConfig(
        name="topk",
        site="x",
        target="x",
        coder=TopK(num_latents=num_latents, k=K),
        optim=Adam(beta1=0.9, clip_norm=1.0),
    )
    mesh, width = make_mesh(world, 1, {}), x_BD.shape[1]
    rung = Rung(config, mesh, 1.0, width, width, Precision.float32, world.device)
    rung.initialise(0, x_BD, x_BD)
    return rung


def taking_turns(
    rung: Rung, batches: list[torch.Tensor], checkpoints: Checkpoints, num_steps: int
) -> Iterator[dict[str, Any]]:
    """Seconds of steps without a save, of a save waited for, of one beside steps, of those."""
    numbers = count()

    def step() -> None:
        number = next(numbers)
        batch = SharedRows({"x": batches[number % len(batches)]}, torch.float32)
        take_step(rung, batch, number)

    def save() -> None:
        checkpoints.save(next(numbers), rung.tensors(), {})

    while True:
        plain = [seconds_of(step) for _ in range(num_steps)]
        waited = seconds_of(lambda: (save(), checkpoints.finish()))
        call, beside = seconds_of(save), []
        while not checkpoints.is_idle:
            beside.append(seconds_of(step))
        checkpoints.finish()
        yield {"plain": plain, "waited": waited, "call": call, "beside": beside}


def run(
    widths: tuple[int, ...] = (16_384, 131_072) if _IS_CUDA else (4096, 16_384),
    d_in: int = 2304 if _IS_CUDA else 768,
    batch: int = 4096,
    every: int = 100,
    steps: int = 10,
    rounds: int = 5,
    folder: Path = TEMPORARY,
) -> Iterator[Figure]:
    """Shares of training's time, with a save each `every` steps.

    Args:
        widths: numbers of latents.
        d_in: width of the activations.
        batch: rows of a step.
        every: steps from one save to the next.
        steps: that a round takes without a save.
        rounds: whose median counts.
        folder: where to save.
    """
    torch.set_float32_matmul_precision("highest")
    with start_world() as world:
        for num_latents in widths:
            batches = activations(d_in, batch)
            rung = make_rung(world, num_latents, batches[0])
            with tempfile.TemporaryDirectory(dir=folder) as own:
                checkpoints = Checkpoints(Path(own), CheckpointConfig())
                turns = taking_turns(rung, batches, checkpoints, steps)
                next(turns)  # takes the host memory, warms up
                found = [next(turns) for _ in range(rounds)]
                path = checkpoints.latest()
                assert path is not None
                load = seconds_of(lambda p=path, c=checkpoints, r=rung: c.open(p).load(r.tensors()))
            step = statistics.median(second for turn in found for second in turn["plain"])
            costs = [t["call"] + sum(t["beside"]) - len(t["beside"]) * step for t in found]
            waited = statistics.median(turn["waited"] for turn in found)
            size = sum(tensor.nbytes for tensor in rung.tensors().values())
            more = {"step_ms": step * 1e3, "load_ms": load * 1e3, "checkpoint_bytes": size}
            for name, cost in (("beside", statistics.median(costs)), ("before", waited)):
                share, title = 100 * cost / (every * step), f"saving {name} training"
                target = "≤ 5 %" if name == "beside" else ""
                yield Figure(
                    f"{title}, {num_latents:,} latents", share, "%", target=target, more=more
                )
