"""FVU of what each program trains on the same tokens in the same order, at equal L0.

Kinds that are told k are compared at k, the others at equal L0: each program is steered by its own
lever until two runs lie on either side of the target. `same` gives a peer this project's
hyperparameters, `own` leaves it its own; the better one counts. Every run is kept, and none is made
twice: what is started again goes on.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file

from benchmarks.activations import SITE, STORE, TOKENS
from benchmarks.equal import Lever, next_aim
from benchmarks.figures import RESULTS, Figure, LeftOut, markdown, number
from benchmarks.kept import KeptRuns, Run, nearest_aim, over_seeds
from benchmarks.measured import Activations, HeldOut, as_coder
from benchmarks.process import call
from benchmarks.steps import PEERS, PRECISIONS
from benchmarks.trained.task import (
    ABSTOPK,
    AUTOENCODER,
    GATED,
    RELU,
    SETUPS,
    SKIP,
    TOLD_K,
    TRANSCODER,
    kind_and_form,
)
from sae_dist.parallel import start_world

OURS = "sae_dist"
KEPT = RESULTS / "runs"
PYTHON = Path(".venv-bench/bin/python")
_MODULES = {p: p for p in (OURS, "sparsify", "dictionary_learning")}
_MODULES |= {"SAELens": "sae_lens", "Llamascopium": "llamascopium"}
_MAX_RUNS = 4  # of one program that is steered, with one seed
_SECONDS = 7200.0  # of one run
_PENALTY = Lever(0.5, is_rising=False)
_IN_MOST = ("dictionary_learning", "SAELens")
_HAVE = {  # who trains what; Llamascopium's BatchTopK has no threshold to infer with
    "topk": tuple(PEERS),
    "jumprelu": (*_IN_MOST, "Llamascopium"),
    **dict.fromkeys(("batchtopk", "matryoshka_batchtopk", GATED, RELU), _IN_MOST),
    ABSTOPK: ("SAELens",),
    f"topk_{TRANSCODER}": ("sparsify", "Llamascopium"),
    f"topk_{SKIP}": ("sparsify",),
    f"jumprelu_{TRANSCODER}": ("Llamascopium",),
}
_FIRST = ("topk", "batchtopk", "jumprelu")
_COLUMNS = "coder | program | seeds | L0 | FVU | dead | Δ loss | processor s"
KINDS = (*_FIRST, "matryoshka_batchtopk", GATED, RELU, "hierarchical_topk", ABSTOPK)
SMOKE = {
    "kinds": ("topk",),
    "precisions": ("float32",),
    "peers": (),
    "seeds": 1,
    "tokens": 32_768,
    "kept": Path(os.devnull),
}


def run(
    kinds: tuple[str, ...] = KINDS,
    precisions: tuple[str, ...] = PRECISIONS,
    peers: tuple[str, ...] = tuple(PEERS),
    seeds: int = 3,
    tokens: int = TOKENS,
    minutes: float = math.inf,
    store: Path = STORE,
    peers_python: Path = PYTHON,
    kept: Path = KEPT / "quality.jsonl",
) -> Iterator[Figure | LeftOut]:
    """Mean FVU over seeds, by kind and precision; a peer that is steered with its own settings has
    one seed.

    Args:
        kinds: of coders.
        precisions: of ours.
        peers: beside ours in the first precision, those that have the kind.
        seeds: of each.
        tokens: to train on.
        minutes: after which no run is begun.
        store: whose activations; the quickstart's is made where it is not there.
        peers_python: the interpreter that has the peers.
        kept: the runs so far.
    """
    asked = Asked(kinds, precisions, peers, seeds, tokens, minutes)
    yield from compare("toy", {AUTOENCODER: (SITE,)}, asked, store, peers_python, kept)


@dataclass(frozen=True)
class Asked:
    """What is to be compared, as `run` says it."""

    kinds: Sequence[str]
    precisions: Sequence[str]
    peers: Sequence[str]
    seeds: int
    tokens: int
    minutes: float


class Job(NamedTuple):
    """One program that trains one kind, named with its form, with one seed."""

    program: str
    name: str
    setting: str
    seed: int

    @property
    def kind(self) -> str:
        """Without the form."""
        return kind_and_form(self.name)[0]

    @property
    def form(self) -> str:
        """Of what is trained."""
        return kind_and_form(self.name)[1]

    @property
    def is_steered(self) -> bool:
        """Whether it is brought to an L0, not told k."""
        return self.kind not in TOLD_K

    @property
    def worth(self) -> tuple[bool, bool, int, bool]:
        """The least is done first: ours, and of peers the first seed with our hyperparameters; the
        three most usual kinds, transcoders, then the others.
        """
        is_peer = self.program != OURS
        group = 0 if self.name in _FIRST else 1 + (self.form == AUTOENCODER)
        return is_peer and self.seed > 0, self.setting == "own", group, is_peer

    def lever(self, k: int) -> Lever:
        """By what it is steered; SAELens' own JumpReLU is priced."""
        is_priced = self.kind in (GATED, RELU) or self.program == "Llamascopium"
        if self.is_steered and self.program == "SAELens" and self.setting == "own":
            return replace(_PENALTY, first=1.0) if self.kind == "jumprelu" else _PENALTY
        return _PENALTY if self.is_steered and is_priced else Lever(float(k), is_rising=True)


def jobs(asked: Asked) -> list[Job]:
    """All of them, in the order of their worth."""
    found = []
    for name in asked.kinds:
        peers = [peer for peer in asked.peers if peer in _HAVE.get(name, ())]
        for seed in range(asked.seeds):
            found += [Job(OURS, name, precision, seed) for precision in asked.precisions]
            found += [Job(peer, name, how, seed) for peer in peers for how in ("same", "own")]
    few = [job for job in found if not (job.seed and job.is_steered and job.setting == "own")]
    return sorted(few, key=lambda job: job.worth)


def compare(
    setup: str,
    sites: Mapping[str, tuple[str, ...]],
    asked: Asked,
    store: Path,
    peers_python: Path,
    kept: Path,
) -> Iterator[Figure | LeftOut]:
    """The figures of each kind, anew after every job.

    Args:
        setup: one of `SETUPS`.
        sites: of each form that is asked for, what is read, and the target where that is another.
        asked: what is to be compared.
        store, peers_python, kept: as of `run`.
    """
    with tempfile.TemporaryDirectory() as folder, start_world() as world:
        held_out = HeldOut(store, world)
        trainer = Trainer(setup, asked, held_out, sites, peers_python, KeptRuns(kept), Path(folder))
        for job in jobs(asked):
            yield from (LeftOut(name, why) for name, why in trainer.steer(job).items())
            yield from figures(trainer, job.name, asked, " → ".join(sites[job.form]))


def figures(trainer: "Trainer", name: str, asked: Asked, where: str) -> Iterator[Figure]:
    """FVU of a kind as far as it is known, by precision of ours."""
    found = {}
    for job in jobs(asked):
        if job.name == name and job.seed == 0 and (means := trainer.means(job)) is not None:
            found[f"{job.program}, {job.setting}"] = means
    own = {p: found.pop(key) for p in asked.precisions if (key := f"{OURS}, {p}") in found}
    for precision, ours in own.items():
        others = {other: means["fvu"] for other, means in found.items()}
        more = {"ours": ours, "others": found}
        what = f"FVU, {where}, {name}, {precision}"
        yield Figure(what, ours["fvu"], "", others=others, more=more)
        found = {f"ours, {precision}": ours}  # what the next is compared with


def draw(figures: list[Figure], folder: Path) -> list[str]:
    """Write a table of all that was measured."""
    return write_table(figures, folder / "quality.md")


def write_table(figures: list[Figure], path: Path) -> list[str]:
    """Write means over seeds of each coder, ours and then each peer's by FVU; the file's name."""
    path.write_text(markdown(_COLUMNS, [row for figure in figures for row in _rows(figure)]))
    return [path.name]


def _rows(figure: Figure) -> Iterator[list[str]]:
    what = figure.name.removeprefix("FVU, ")
    others = sorted(figure.more["others"].items(), key=lambda item: item[1]["fvu"])
    for program, means in [("**sae_dist**", figure.more["ours"]), *others]:
        deviation = f" ± {means['deviation']:.4f}" if means["deviation"] is not None else ""
        yield [
            *(what, program, str(means["seeds"]), number(means["l0"])),
            *(f"{means['fvu']:.4f}{deviation}", f"{100 * means['dead_share']:.1f} %"),
            *(number(means["delta_loss"]), number(means["processor_seconds"])),
        ]


class Trainer:
    """Lets programs train, and keeps what came of it.

    Args:
        setup: one of `SETUPS`.
        asked: how many tokens, and for how long.
        held_out: what all are measured on.
        sites: of each form.
        peers_python: the interpreter that has the peers.
        kept: the runs so far.
        folder: for activations and weights.
    """

    def __init__(
        self,
        setup: str,
        asked: Asked,
        held_out: HeldOut,
        sites: Mapping[str, tuple[str, ...]],
        peers_python: Path,
        kept: KeptRuns,
        folder: Path,
    ) -> None:
        self.setup, self.k, self.tokens = setup, SETUPS[setup].k, asked.tokens
        self.held_out, self.sites, self.peers_python = held_out, sites, peers_python
        self.kept, self.folder = kept, folder
        self._end = time.monotonic() + 60 * asked.minutes
        self._activations: dict[str, Activations] = {}

    def told(self, job: Job) -> Run:
        """What a job's runs are told, whatever their seed and aim."""
        setup = SETUPS[self.setup]
        sizes = {"num_latents": setup.num_latents, "batch": setup.batch, "tokens": self.tokens}
        recipe = {} if job.setting == "own" else {"recipe": asdict(setup.recipes[job.name])}
        about = {"program": job.program, "name": job.name, "setting": job.setting}
        return about | {"sites": list(self.sites[job.form])} | sizes | recipe

    def means(self, job: Job) -> Run | None:
        """What is known of a program's kind and setting, over seeds."""
        return over_seeds(self.kept.told(self.told(job)), self.k if job.is_steered else None)

    def steer(self, job: Job) -> dict[str, str]:
        """Make the run that a job still lacks; of what is steered those that it takes to bring it
        to the target L0. What failed, and why.
        """
        told, k = self.told(job), self.k
        lever = job.lever(k)
        first = nearest_aim(self.kept.told(told), k) if job.is_steered else None
        lever = lever if first is None else replace(lever, first=first)
        runs = self.kept.told(told | {"seed": job.seed})
        while len(runs) < (_MAX_RUNS if job.is_steered else 1):
            aim = next_aim(runs, k, lever)
            if aim is None or time.monotonic() > self._end:
                break
            found = self.train(job, aim)
            if isinstance(found, str):
                return {f"{job.program} {job.name} {job.setting} {aim:.3g}, seed {job.seed}": found}
            runs.append(told | {"seed": job.seed, "aim": aim} | found)
            self.kept.add(runs[-1])
        return {}

    def train(self, job: Job, aim: float) -> Run | str:
        """Train one coder and measure it; why not, if that failed."""
        activations, weights = self.activations(job.form), self.folder / "weights.safetensors"
        task = {"module": _MODULES[job.program], "setup": self.setup, "name": job.name}
        task |= {"setting": job.setting, "aim": aim, "seed": job.seed}
        task |= {"data": str(activations.path), "to": str(weights)}
        python = {"python": self.peers_python} if job.program in PEERS else {}
        result = call("benchmarks.trained.task:train_program", task, _SECONDS, **python)
        if isinstance(result, str):
            return result
        coder = as_coder(load_file(weights), job.name, self.k)
        found = activations.measured(coder) | result
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{' '.join(map(str, job))}, aim {aim:.3g}: {shown}", flush=True)
        return found

    def activations(self, form: str) -> Activations:
        """Those of a form, written once."""
        if form not in self._activations:
            batch = SETUPS[self.setup].batch
            sites = self.sites[form]
            folder = self.folder / form
            folder.mkdir()
            self._activations[form] = Activations(self.held_out, sites, self.tokens, batch, folder)
        return self._activations[form]
