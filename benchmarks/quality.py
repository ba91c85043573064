"""FVU of what each program trains on the same tokens in the same order, at equal L0.

TopK, BatchTopK and its Matryoshka are compared at k, the others at equal L0: each program is
steered by its own lever until two runs lie on either side of the target. `same` gives a peer this
project's hyperparameters, `own` leaves it its own; the better one counts. Ours is trained in both
precisions.
"""

import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.activations import STORE, TOKENS, quickstart_store, write_activations
from benchmarks.equal import Lever, fvu_at, next_aim
from benchmarks.figures import Figure, LeftOut
from benchmarks.process import call
from benchmarks.steps import PEERS, PRECISIONS
from benchmarks.trained.task import GATED, RELU, TOLD_K, K
from sae_dist.coders import Coder, JumpReLU, TopK
from sae_dist.evaluate import Fidelity, Subject, run_coder
from sae_dist.evaluate.measures.frequency import FiringFrequency
from sae_dist.parallel import World, make_mesh, start_world

OURS = "sae_dist"
_MODULES = {p: p for p in (OURS, "sparsify", "dictionary_learning")}
_MODULES |= {"SAELens": "sae_lens", "Llamascopium": "llamascopium"}
_MAX_RUNS = 4  # of one program's JumpReLU with one seed
_BATCH, _SECONDS = 4096, 900.0
_TARGET = Lever(float(K), is_rising=True)
_PENALTY = Lever(0.5, is_rising=False)
_OF_JUMPRELU = {
    "dictionary_learning": {"same": _TARGET, "own": _TARGET},
    "SAELens": {"same": _TARGET, "own": Lever(1.0, is_rising=False)},
    "Llamascopium": {"same": _PENALTY, "own": _PENALTY},
}
_MORE = ("dictionary_learning", "SAELens")  # that have the other kinds
SMOKE = {"kinds": ("topk",), "precisions": ("float32",), "peers": (), "seeds": 1, "tokens": 32_768}
Runs = list[dict[str, Any]]


def run(
    kinds: tuple[str, ...] = (*TOLD_K, "jumprelu", GATED, RELU),
    precisions: tuple[str, ...] = PRECISIONS,
    peers: tuple[str, ...] = tuple(PEERS),
    seeds: int = 3,
    tokens: int = TOKENS,
    store: Path = STORE,
    peers_python: Path = Path(".venv-bench/bin/python"),
) -> Iterator[Figure | LeftOut]:
    """Mean FVU over seeds, by kind and precision; a peer that is steered with its own settings has
    one seed.

    Args:
        kinds: of coders.
        precisions: of ours.
        peers: beside ours in float32, those that have the kind.
        seeds: of each.
        tokens: to train on.
        store: whose activations; the quickstart's is made where it is not there.
        peers_python: the interpreter that has the peers.
    """
    with tempfile.TemporaryDirectory() as folder, start_world() as world:
        data = Path(folder) / "activations.safetensors"
        sizes = write_activations(quickstart_store(store), tokens, data)
        trainer = Trainer(data, peers_python, world)
        for kind in kinds:
            found: dict[str, dict[str, Any]] = {}
            for program, setting in programs(kind, precisions, peers):
                num_seeds = 1 if kind not in TOLD_K and setting == "own" else seeds
                runs = trainer.steer(program, kind, setting, num_seeds)
                yield from (LeftOut(name, why) for name, why in trainer.failed.items())
                if (at_target := over_seeds(runs, kind)) is not None:
                    found[f"{program}, {setting}"] = at_target | {"runs": runs}
            for precision in precisions:
                own = found.pop(f"{OURS}, {precision}", None)
                if own is not None:
                    name = f"FVU, {kind}, {precision}, L0 {own['l0']:.3g}"
                    others = {n: other["fvu"] for n, other in found.items()}
                    yield Figure(name, own["fvu"], "", others=others, more=sizes | own | found)
                    found = {f"ours, {precision}": own}  # what the next is compared with


def programs(
    kind: str, precisions: Sequence[str], peers: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Who trains this kind, and in which settings."""
    yield from ((OURS, precision) for precision in precisions)
    for peer in peers:
        has_it = {"topk": tuple(PEERS), "jumprelu": tuple(_OF_JUMPRELU)}
        if peer in has_it.get(kind, _MORE):
            yield from ((peer, setting) for setting in ("same", "own"))


def over_seeds(runs: Runs, kind: str) -> dict[str, Any] | None:
    """Mean FVU and its sample's standard deviation, of what is steered at the target, and the mean
    share of latents that never fired; None without it.
    """
    by_seed = [[r for r in runs if r["seed"] == seed] for seed in {r["seed"]: 0 for r in runs}]
    if kind not in TOLD_K:
        fvus = [fvu_at(own, K) for own in by_seed]
    else:
        fvus = [own[0]["fvu"] for own in by_seed]
    there = [fvu for fvu in fvus if fvu is not None]
    if not there or len(there) < len(fvus):
        return None
    l0 = statistics.mean(run["l0"] for run in runs) if kind in TOLD_K else K
    deviation = statistics.stdev(there) if len(there) > 1 else None
    dead = statistics.mean(run["dead_share"] for run in runs)
    return {"fvu": statistics.mean(there), "deviation": deviation, "l0": l0, "dead_share": dead}


class Trainer:
    """Trains on one file of activations, and evaluates on its held-out part.

    Args:
        data: written by `write_activations`.
        peers_python: the interpreter that has the peers.
        world: of this process alone.

    Attributes:
        failed: why a run of the last program gave nothing, by its name.
    """

    def __init__(self, data: Path, peers_python: Path, world: World) -> None:
        self.data, self.peers_python, self.world = data, peers_python, world
        self.held_out_MD = load_file(data)["held_out"]
        self.failed: dict[str, str] = {}

    def steer(self, program: str, kind: str, setting: str, num_seeds: int) -> Runs:
        """A run a seed; of what is steered as many as bring it to the target L0."""
        self.failed, every = {}, []
        levers = _OF_JUMPRELU.get(program, {}) if kind == "jumprelu" else {}
        lever = levers.get(setting, _PENALTY if kind in (GATED, RELU) else _TARGET)
        for seed in range(num_seeds):
            runs: Runs = []
            while (aim := next_aim(runs, K, lever)) is not None and len(runs) < _MAX_RUNS:
                found = self.train(program, kind, setting, aim, seed)
                if found is None:
                    return every
                runs.append(found)
                if kind in TOLD_K:
                    break
            every += runs
            nearest = min(runs, key=lambda run: abs(math.log(max(run["l0"], 1e-3) / K)))
            lever = replace(lever, first=nearest["aim"])
        return every

    def train(
        self, program: str, kind: str, setting: str, aim: float, seed: int
    ) -> dict[str, Any] | None:
        """Train one coder and measure it; None if that failed."""
        weights = self.data.with_name("weights.safetensors")
        about = {"kind": kind, "setting": setting, "aim": aim, "seed": seed}
        task = about | {"module": _MODULES[program], "data": str(self.data), "to": str(weights)}
        python = {"python": self.peers_python} if program in PEERS else {}
        result = call("benchmarks.trained.task:train_program", task, _SECONDS, **python)
        name = f"{program} {kind} {setting} {aim:.3g}, seed {seed}"
        if isinstance(result, str):
            self.failed[name] = result
            return None
        found = about | self.measure(load_file(weights)) | result
        print(f"{name}: L0 {found['l0']:.2f}, FVU {found['fvu']:.4f}", flush=True)
        return found

    def measure(self, weights: dict[str, Tensor]) -> dict[str, float]:
        """See `measured`."""
        return measured(as_coder(weights, K), self.held_out_MD, self.world)


@torch.no_grad()
def measured(coder: Coder, held_out_MD: Tensor, world: World) -> dict[str, float]:
    """L0, FVU and dead share on some rows: those of `sae_dist.evaluate`, for every program."""
    coder, mesh = coder.to(world.device), make_mesh(world, 1, {})
    subject = Subject(coder=coder, mesh=mesh, num_positions=1)
    measures = [Fidelity(subject), FiringFrequency(subject)]
    for x_BD in held_out_MD.split(_BATCH):
        x_1BD = x_BD.to(world.device)[None]
        everything = torch.ones(x_1BD.shape[:2], dtype=torch.bool, device=x_1BD.device)
        seen = run_coder(coder, x_1BD, x_1BD, everything)
        for measure in measures:
            measure.update(seen)
    result = measures[0].result() | measures[1].result()
    return {key: result[key] for key in ("l0", "fvu", "dead_share")}


def as_coder(weights: dict[str, Tensor], k: int) -> Coder:
    """The coder of some weights: by their threshold a JumpReLU, without one a TopK."""
    num_latents, d_in = weights["W_enc"].shape
    is_jumprelu = "threshold" in weights
    config = (
        JumpReLU(num_latents=num_latents) if is_jumprelu else TopK(num_latents=num_latents, k=k)
    )
    coder = Coder(config, d_in, d_in, pre_bias=False).eval()
    coder.load_state_dict(weights)
    return coder
