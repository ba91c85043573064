"""Measures the coders of runs, and writes the figures of each measure as they are there."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.evaluate.candidates import Candidate
from sae_dist.evaluate.config import EvaluationConfig, check
from sae_dist.evaluate.groups import neighbours
from sae_dist.evaluate.measure import Declared, Figures, LadderMeasure, Needs, Pair
from sae_dist.evaluate.passes import Passes
from sae_dist.evaluate.registry import measures
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

_OF_ONE = (Needs.WEIGHTS, Needs.CODES, Needs.LM, Needs.GRADIENTS)
Asked = dict[str, type[Any]]


def evaluate(
    candidates: Sequence[Candidate],
    source: ActivationSource,
    lm: Callable[[], LM] | None,
    config: EvaluationConfig,
    world: World,
) -> list[dict[str, Any]]:
    """Measure coders of one run or of several; called by all processes together.

    Coders of one width are held at once, and of pairs both. What is measured already, of the same
    coder, store and settings, is not measured again; so an evaluation that was ended goes on where
    it stopped, but for the pass that it was in.

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
    return _Evaluation(candidates, source, lm, config, world).results()


class _Evaluation:
    def __init__(
        self,
        candidates: Sequence[Candidate],
        source: ActivationSource,
        lm: Callable[[], LM] | None,
        config: EvaluationConfig,
        world: World,
    ) -> None:
        self.mesh = make_mesh(world, config.parallel.latent, {})
        self.source, self.config = source, config
        self.passes = Passes(source, lm, config, self.mesh)
        self.candidates = _chosen(candidates, config.rungs)
        for candidate in self.candidates:
            candidate.require(source, config)
        self.runs = list(dict.fromkeys(candidate.run for candidate in self.candidates))
        self.asked = self._asked()

    def results(self) -> list[dict[str, Any]]:
        on_first_rank(None, self._write_about)
        for width in sorted({candidate.num_latents for candidate in self.candidates}):
            self._measure([c for c in self.candidates if c.num_latents == width])
        self._compare()
        return [on_first_rank(None, partial(self._conclude, run)) for run in self.runs]

    def _asked(self) -> Asked:
        """The measures to take: those asked for, and what they rest upon."""
        every = measures()
        names = list(every) if self.config.measures is None else self.config.measures
        taken = {n: every[n] for n in names if every[n].needs is not Needs.FINETUNE}
        idle = [name for name, kind in taken.items() if not self._is_taken(kind)]
        if self.config.measures is not None and idle:
            raise UserError(
                f"found nothing to take measures={idle} of; expected a language model in the store "
                "and sequences to read; leave them out, or raise lm_sequences, "
                "uniformity_sequences or pairs.sequences"
            )
        taken = {name: kind for name, kind in taken.items() if name not in idle}
        needs = {kind.needs for kind in taken.values()}
        resting = [DESCRIPTION, *(["fidelity"] if needs & {Needs.PAIR, Needs.FIGURES} else [])]
        return {name: every[name] for name in resting} | taken

    def _is_taken(self, kind: type[Declared]) -> bool:
        return kind.needs in (Needs.WEIGHTS, Needs.FIGURES) or self.passes.sequences(kind) > 0

    def _of(self, kind: type[Declared], **coders: str) -> dict[str, Any]:
        """What figures are of: other such figures are measured again."""
        found: dict[str, Any] = {**coders, "version": kind.version}
        if kind.needs is not Needs.WEIGHTS:
            found |= {"store": self.source.identity, kind.sequences: self.passes.sequences(kind)}
            found |= {key: attrgetter(key)(self.config) for key in kind.settings}
        if kind.needs in (Needs.LM, Needs.GRADIENTS):
            found["lm"] = (self.source.about.get("lm") or {}).get("commit")
        return found

    def _measure(self, candidates: list[Candidate]) -> None:
        """All that is missing of coders of one width."""
        places = {
            (number, name): (
                rung_path(candidate.run, candidate.name, name),
                self._of(kind, coder=candidate.fingerprint),
            )
            for number, candidate in enumerate(candidates)
            for name, kind in self.asked.items()
            if kind.needs in _OF_ONE
        }
        missing = _missing(places)
        subjects = {
            number: candidates[number].subject(self.mesh, self.source.sequence_length, self.config)
            for number in dict.fromkeys(number for number, _ in missing)
        }
        taken = {self.asked[name](subjects[number]): (number, name) for number, name in missing}
        for measure in self.passes.take(taken):
            self._write(*places[taken[measure]], measure.result())

    def _compare(self) -> None:
        """All that is missing of pairs; those of several runs, too, lie with the larger coder."""
        asked = {name: kind for name, kind in self.asked.items() if kind.needs is Needs.PAIR}
        if not asked:
            return
        known = {self._called(c): c for c in self.candidates}
        rungs = on_first_rank(None, lambda: {name: _figures(c) for name, c in known.items()})
        for names in neighbours(rungs):
            small, large = (known[name] for name in names)
            called = small.name if small.run == large.run else f"{small.run.name}/{small.name}"
            coders = {
                "smaller": called,
                "larger": large.name,
                "smaller_coder": small.fingerprint,
                "larger_coder": large.fingerprint,
            }
            places = {
                (name,): (pair_path(large.run, called, large.name, name), self._of(kind, **coders))
                for name, kind in asked.items()
            }
            if not (missing := _missing(places)):
                continue
            both = (
                c.subject(self.mesh, self.source.sequence_length, self.config)
                for c in (small, large)
            )
            pair = Pair(small=next(both), large=next(both))
            log_info(f"  {called} and {large.name}")
            taken = {asked[name](pair): (name,) for (name,) in missing}
            for measure in self.passes.take(taken):
                path, of = places[taken[measure]]
                by_latent = {key: v.cpu() for key, v in measure.by_latent().items()}
                figures = measure.result()
                if by_latent:
                    file = path.with_suffix(".safetensors")
                    figures["by_latent"] = str(file.relative_to(large.run))
                    on_first_rank(None, partial(_write_tensors, file, by_latent))
                self._write(path, of, figures)

    def _called(self, candidate: Candidate) -> str:
        return candidate.name if len(self.runs) == 1 else f"{candidate.run.name}/{candidate.name}"

    def _write(self, path: Path, of: dict[str, Any], figures: Figures) -> None:
        on_first_rank(None, lambda: write_figures(path, of, figures))

    def _write_about(self) -> None:
        about = self.source.about
        for run in self.runs:
            record = {
                "version": VERSION,
                "run": run.name,
                "store": {"path": about.get("store"), "manifest": self.source.identity},
                "lm": about.get("lm"),
                "sequences": self.passes.sequences(measures()["fidelity"]),
            }
            write_record(run_path(run, ABOUT), record)

    def _conclude(self, run: Path) -> dict[str, Any]:
        """What all figures of a run say together; by the first process."""
        found = read_evaluation(run)
        assert found is not None
        for name, kind in self.asked.items():
            if issubclass(kind, LadderMeasure):
                figures = kind.of(found["rungs"])
                write_figures(run_path(run, name), {"version": kind.version}, figures)
        return read_evaluation(run) or {}


def _chosen(candidates: Sequence[Candidate], names: list[str] | None) -> list[Candidate]:
    known = sorted({candidate.name for candidate in candidates})
    asked = rungs_asked_for(names, known, of=str(candidates[0].run))
    return [candidate for candidate in candidates if candidate.name in asked]


def _missing(places: dict[Any, tuple[Path, dict[str, Any]]]) -> list[Any]:
    """Of what no figures are there, or others; every process is told the same."""
    return on_first_rank(
        None, lambda: [key for key, (path, of) in places.items() if read_figures(path, of) is None]
    )


def _figures(candidate: Candidate) -> Figures:
    """What `neighbours` asks of a rung."""
    found: Figures = {}
    for name in (DESCRIPTION, "fidelity"):
        found |= read_figures(rung_path(candidate.run, candidate.name, name)) or {}
    return {key: found[key] for key in ("kind", "form", "site", "target", "num_latents", "l0")}


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors))
