"""Time what checkpoints cost a TopK coder's training: saved beside it, and waited for.

    python -m benchmarks.checkpoint

Prints one JSON object. A round takes steps without saving, one save that is waited for, and one
beside the steps that follow; figures are medians over rounds. What a save costs training is the
time of its call, and what the steps beside it take beyond the median step without one;
`stall_share` is that over the time of `--every` steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import DEVICE, K, activations, machine, synchronise
from sae_dist.checkpoint import CheckpointConfig, Checkpoints
from sae_dist.coders import TopK
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.train import AdamConfig, Rung, RungConfig, SharedRows, training_step
from sae_dist.train.config import Precision

_IS_CUDA = DEVICE == "cuda"
_WIDTH = 2304 if _IS_CUDA else 768
_NUM_LATENTS = [16_384, 131_072] if _IS_CUDA else [4096, 16_384]
_NUM_STEPS = 1_000_000  # of the run that the schedules believe in


def make_rung(world: World, num_latents: int, x_BD: torch.Tensor) -> Rung:
    """A TopK rung of the recipes' settings on a 1×1 mesh, with its first weights."""
    config = RungConfig(
        name="topk",
        site="x",
        target="x",
        coder=TopK(num_latents=num_latents, k=K),
        optim=AdamConfig(beta1=0.9, clip_norm=1.0),
    )
    mesh, width = make_mesh(world, 1, {}), x_BD.shape[1]
    rung = Rung(config, mesh, 1.0, width, width, Precision.float32, world.device)
    rung.initialise(0, x_BD, x_BD)
    return rung


def seconds(action: Callable[[], object]) -> float:
    """How long it takes, device included."""
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def rounds(
    rung: Rung, batches: list[torch.Tensor], checkpoints: Checkpoints, num_steps: int
) -> Iterator[dict[str, Any]]:
    """Seconds of steps without a save, of a save waited for, of one beside steps, of those."""
    numbers = count()

    def step() -> None:
        number = next(numbers)
        batch = SharedRows({"x": batches[number % len(batches)]}, torch.float32)
        training_step(rung, batch, number, _NUM_STEPS)

    def save() -> None:
        checkpoints.save(next(numbers), rung.tensors(), {})

    while True:
        plain = [seconds(step) for _ in range(num_steps)]
        waited = seconds(lambda: (save(), checkpoints.finish()))
        call, beside = seconds(save), []
        while not checkpoints.is_idle:
            beside.append(seconds(step))
        checkpoints.finish()
        yield {"plain": plain, "waited": waited, "call": call, "beside": beside}


def measure(world: World, num_latents: int, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one width."""
    batches = activations(options.d_in, options.batch)
    rung = make_rung(world, num_latents, batches[0])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoints = Checkpoints(Path(folder), CheckpointConfig())
        turns = rounds(rung, batches, checkpoints, options.steps)
        next(turns)  # takes the host memory, warms up
        found = [next(turns) for _ in range(options.rounds)]
        path = checkpoints.latest()
        assert path is not None
        load = seconds(lambda: checkpoints.load(path, rung.tensors()))
    step = statistics.median(second for turn in found for second in turn["plain"])
    stalls = [turn["call"] + sum(turn["beside"]) - len(turn["beside"]) * step for turn in found]
    waited, stall = statistics.median(turn["waited"] for turn in found), statistics.median(stalls)
    return {
        "d_in": options.d_in,
        "num_latents": num_latents,
        "checkpoint_bytes": sum(t.nbytes for t in rung.tensors().values()),
        "step_ms": step * 1e3,
        "call_ms": statistics.median(turn["call"] for turn in found) * 1e3,
        "steps_beside_a_save": statistics.median(len(turn["beside"]) for turn in found),
        "stall_ms": stall * 1e3,
        "stall_share": stall / (options.every * step),
        "waited_for_ms": waited * 1e3,
        "waited_for_stall_share": waited / (options.every * step),
        "load_ms": load * 1e3,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to save (default: for temporary files)")
    parser.add_argument("--d-in", type=int, default=_WIDTH)
    parser.add_argument("--num-latents", type=int, nargs="+", default=_NUM_LATENTS)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--every", type=int, default=100, help="steps from one save to the next")
    parser.add_argument("--steps", type=int, default=10, help="a round takes without a save")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    with start_world() as world:
        widths = [measure(world, num_latents, options) for num_latents in options.num_latents]
    about = {"batch": options.batch, "every_steps": options.every}
    print(json.dumps({"widths": widths} | about | {"machine": machine()}))


if __name__ == "__main__":
    main()
