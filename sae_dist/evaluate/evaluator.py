"""Measures the coders of runs, and writes the figures of each measure as they are there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.errors import UserError
from sae_dist.common.groups import held_together, neighbours
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.evaluate.candidates import Candidate
from sae_dist.evaluate.config import EvaluationConfig, check
from sae_dist.evaluate.measure import Figures, LadderMeasure, Pair, Subject
from sae_dist.evaluate.passes import Passes
from sae_dist.evaluate.registry import Declared, Needs, measures
from sae_dist.evaluate.results import (
    ABOUT,
    DESCRIPTION,
    VERSION,
    pair_path,
    read_evaluation,
    read_figures,
    run_path,
    rung_path,
    write_figures,
    write_record,
)
from sae_dist.lm import LM
from sae_dist.parallel import World, make_mesh
from sae_dist.stream import ActivationSource


def evaluate(
    candidates: Sequence[Candidate],
    source: ActivationSource,
    lm: Callable[[], LM] | None,
    config: EvaluationConfig,
    world: World,
) -> list[dict[str, Any]]:
    """Measure coders of one run or of several; called by all processes together.

    Coders are held at once as `held_together` has them, and of pairs both. What is measured
    already, of the same coder, store and settings, is not measured again; so an evaluation that was
    ended goes on where it stopped, but for the pass that it was in.

    Args:
        candidates: of one run or of several; of each width those are compared whose run it may be.
        source: whose held-out sequences are read.
        lm: loads the language model that the activations came from; None leaves its measures out.

    Returns:
        of each run what `read_evaluation` gives, the same on every process.

    Raises:
        UserError: an unknown rung, a mesh that does not fit, a store that is not theirs, or no
            token in it that is measured.
    """
    check(config, world)
    passes = Passes(source, lm, config, make_mesh(world, config.parallel.latent, {}))
    chosen = _chosen(candidates, config.rungs)
    for candidate in chosen:
        candidate.require(source, config)
    return _Evaluation(passes, chosen, _asked(passes)).results()


@dataclass(frozen=True, slots=True)
class _Evaluation:
    passes: Passes
    candidates: list[Candidate]
    asked: dict[str, type[Any]]

    def results(self) -> list[dict[str, Any]]:
        runs = list(dict.fromkeys(candidate.run for candidate in self.candidates))
        for run in runs:
            on_first_rank(None, partial(self._write_about, run))
        of_one = [name for name, kind in self.asked.items() if kind.needs.of_one]
        for together in held_together(self.candidates, key=lambda one: one.num_latents):
            self._take([(candidate,) for candidate in together], of_one)
        of_pairs = [name for name, kind in self.asked.items() if kind.needs is Needs.PAIR]
        for pair in self._pairs() if of_pairs else []:
            self._take([pair], of_pairs)
        return [on_first_rank(None, partial(self._conclude, run)) for run in runs]

    def _take(self, subjects: Sequence[tuple[Candidate, ...]], names: Sequence[str]) -> None:
        """What no figures are there of, or others, of coders or of pairs, which are held at once.

        Every process is told the same of what is there.
        """
        wanted = [
            (name, coders)
            for coders in subjects
            for name in names
            if all(self.asked[name].measures_coder(coder.site, coder.form) for coder in coders)
        ]
        places = [(_path(n, *coders), self._of(self.asked[n], *coders)) for n, coders in wanted]
        missing = on_first_rank(
            None, lambda: [i for i, place in enumerate(places) if read_figures(*place) is None]
        )
        load = cache(self._load)
        taken = {self.asked[n](load(*coders)): i for i in missing for n, coders in [wanted[i]]}
        for measure in self.passes.take(taken):
            write = partial(write_figures, *places[taken[measure]], measure.result())
            on_first_rank(None, write)

    def _load(self, *coders: Candidate) -> Subject | Pair:
        given = self.passes.mesh, self.passes.source.sequence_length, self.passes.config
        if len(coders) == 1:
            return coders[0].subject(*given)
        log_info(f"  {_beside(*coders)} and {coders[1].name}")
        return Pair(*(candidate.subject(*given) for candidate in coders))

    def _of(self, kind: type[Declared], *coders: Candidate) -> dict[str, Any]:
        """What figures are of: other such figures are measured again."""
        source, found = self.passes.source, dict[str, Any](version=kind.version)
        if len(coders) == 1:
            found["coder"] = coders[0].fingerprint
        else:
            found |= {"smaller": _beside(*coders), "smaller_coder": coders[0].fingerprint}
            found |= {"larger": coders[1].name, "larger_coder": coders[1].fingerprint}
        if kind.needs.reads:
            found |= {"store": source.identity, kind.sequences: self.passes.sequences(kind)}
        if kind.needs is Needs.TEXTS:
            found[kind.sequences] = self.passes.identities
        if kind.needs.reads or kind.needs is Needs.TEXTS:
            found |= {key: attrgetter(key)(self.passes.config) for key in kind.settings}
        if kind.needs.runs_lm:
            found["lm"] = (source.about.get("lm") or {}).get("commit")
        return found

    def _pairs(self) -> list[tuple[Candidate, Candidate]]:
        """A smaller and a larger coder; those of several runs, too, lie with the larger one."""
        are_several = len({candidate.run for candidate in self.candidates}) > 1
        known = {f"{c.run.name}/{c.name}" if are_several else c.name: c for c in self.candidates}
        rungs = on_first_rank(None, lambda: {name: _figures(c) for name, c in known.items()})
        return [(known[smaller], known[larger]) for smaller, larger in neighbours(rungs)]

    def _write_about(self, run: Path) -> None:
        source = self.passes.source
        about = {
            "version": VERSION,
            "run": run.name,
            "store": {"path": source.about.get("store"), "manifest": source.identity},
            "lm": source.about.get("lm"),
            "sequences": self.passes.sequences(measures()["fidelity"]),
        }
        write_record(run_path(run, ABOUT), about)

    def _conclude(self, run: Path) -> dict[str, Any]:
        """What all figures of a run say together; by the first process."""
        found = read_evaluation(run)
        assert found is not None
        for name, kind in self.asked.items():
            if issubclass(kind, LadderMeasure):
                write_figures(
                    run_path(run, name), {"version": kind.version}, kind.of(found["rungs"])
                )
        return read_evaluation(run) or {}


def _chosen(candidates: Sequence[Candidate], names: list[str] | None) -> list[Candidate]:
    known = sorted({candidate.name for candidate in candidates})
    asked = rungs_asked_for(names, known, of=str(candidates[0].run))
    return [candidate for candidate in candidates if candidate.name in asked]


def _asked(passes: Passes) -> dict[str, type[Any]]:
    """The measures to take: those asked for, and what they rest upon."""
    every, asked = measures(), passes.config.measures
    taken = {n: every[n] for n in asked or every if every[n].needs.of_evaluation}
    fed = {n: kind for n, kind in taken.items() if kind.needs.reads or kind.needs is Needs.TEXTS}
    idle = {n: kind for n, kind in fed.items() if not passes.sequences(kind)}
    if asked is not None and idle:
        keys = {kind.sequences for kind in idle.values()}
        keys |= {"lm_sequences" for kind in idle.values() if kind.needs.runs_lm}
        raise UserError(
            f"found nothing to take measures={list(idle)} of; expected a language model in the "
            f"store and sequences to read; leave them out, or raise {' or '.join(sorted(keys))}"
        )
    taken = {name: kind for name, kind in taken.items() if name not in idle}
    needs = {kind.needs for kind in taken.values()}
    resting = [DESCRIPTION, *(["fidelity"] if needs & {Needs.PAIR, Needs.FIGURES} else [])]
    return {name: every[name] for name in resting} | taken


def _path(name: str, *coders: Candidate) -> Path:
    own = coders[-1]
    if len(coders) == 1:
        return rung_path(own.run, own.name, name)
    return pair_path(own.run, _beside(*coders), own.name, name)


def _beside(small: Candidate, large: Candidate) -> str:
    """The smaller coder's name, with its run's before it where that is another."""
    return small.name if small.run == large.run else f"{small.run.name}/{small.name}"


def _figures(candidate: Candidate) -> Figures:
    """What `neighbours` asks of a rung."""
    found: Figures = {}
    for name in (DESCRIPTION, "fidelity"):
        found |= read_figures(rung_path(candidate.run, candidate.name, name)) or {}
    return {key: found[key] for key in ("kind", "form", "site", "target", "num_latents", "l0")}
