"""Latents of a JumpReLU that never fire, at one L0, by how it begins.

Each way adds to the one before it; all else is the quickstart's. FVU stands beside, as a coder can
be kept alive at its cost.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.activations import SITE, STORE, TOKENS
from benchmarks.figures import Figure
from benchmarks.measured import Activations, HeldOut
from benchmarks.trained.sae_dist import make_rung, take_steps
from benchmarks.trained.task import SETUPS, Task
from sae_dist.parallel import World, start_world

_SETUP = SETUPS["toy"]
_L0 = float(_SETUP.k)
WAYS: dict[str, dict[str, Any]] = {
    "b_dec at 0": {},
    "b_dec at the mean": {},
    "each latent as often": {"initial_l0": _L0},
    "silent ones drawn to their thresholds": {"initial_l0": _L0, "pre_act_coefficient": 3e-5},
}
SMOKE = {"seeds": 1, "tokens": 32_768}


def run(seeds: int = 3, tokens: int = TOKENS, store: Path = STORE) -> Iterator[Figure]:
    """Mean share of dead latents on held-out rows.

    Args:
        seeds: of first weights.
        tokens: to train on.
        store: whose activations; the quickstart's is made where it is not there.
    """
    with tempfile.TemporaryDirectory() as folder, start_world() as world:
        held_out = HeldOut(store, world)
        given = Activations(held_out, (SITE,), tokens, _SETUP.batch, Path(folder))
        for way in WAYS:
            runs = [trained(way, seed, given, world) for seed in range(seeds)]
            share, fvu, l0 = (
                statistics.mean(run[key] for run in runs) for key in ("dead_share", "fvu", "l0")
            )
            name = f"dead latents, {way}, L0 {l0:.3g}, FVU {fvu:.3g}"
            yield Figure(name, share, "", more={"tokens": tokens, "runs": runs})


def trained(way: str, seed: int, given: Activations, world: World) -> dict[str, float]:
    """What one coder is in the end: L0, FVU and dead share on the held-out rows."""
    x_ND = load_file(given.path)["train"]
    task = Task("jumprelu", "float32", _L0, _SETUP, x_ND, x_ND, *given.scales, Path(), seed)
    rung = make_rung(task, world, **WAYS[way])
    if way == "b_dec at 0":
        with torch.no_grad():
            rung.coder.b_dec.zero_()
    take_steps(rung, task)
    found = given.measured(rung.coder)
    print(f"{way}, seed {seed}: {found}", flush=True)
    return found
