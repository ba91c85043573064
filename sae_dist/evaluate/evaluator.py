"""Streams held-out activations through all coders of a run, into every measure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder, describe_coder, load_coder
from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.evaluate.consistency import ConsistentActivation
from sae_dist.evaluate.fidelity import Fidelity
from sae_dist.evaluate.frequency import FiringFrequency
from sae_dist.evaluate.lm_loss import LMLoss, Spliced
from sae_dist.evaluate.pairs import PairConfig, compare, neighbours
from sae_dist.evaluate.position import ReconstructionByPosition
from sae_dist.evaluate.seen import Measure, see
from sae_dist.evaluate.similarity import Similarity
from sae_dist.evaluate.thresholds import threshold_distribution
from sae_dist.evaluate.uniformity import Uniformity
from sae_dist.lm import LM, resolve
from sae_dist.parallel import Mesh, World, distribute, make_mesh
from sae_dist.stream import ActivationSource, HeldOutBatch


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How much is evaluated, and on which mesh.

    `max_sequences` (null: all) bounds the held-out sequences; `lm_sequences` those of them that
    are also run through the language model (0: none), and `uniformity_sequences` those through
    which it is differentiated, at `uniformity_positions` of each. About `batch_tokens` pass a coder
    at once, in whole sequences. `latent` processes share each coder's latents, the others its
    sequences.
    """

    max_sequences: int | None = None
    lm_sequences: int = 2048
    uniformity_sequences: int = 64
    uniformity_positions: int = 8
    batch_tokens: int = 4096
    latent: int = 1
    pairs: PairConfig = field(default_factory=PairConfig)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A coder under evaluation."""

    coder: Coder
    site: str
    target: str
    measures: list[Measure]

    def update(self, batch: HeldOutBatch, batch_tokens: int) -> None:
        for part in self.parts(batch, batch_tokens):
            seen = see(self.coder, *part)
            for measure in self.measures:
                measure.update(seen)

    def parts(
        self, batch: HeldOutBatch, batch_tokens: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Input, target and mask [N, S, …], about so many tokens at once in whole sequences."""
        sequences = max(1, batch_tokens // batch.trainable.shape[1])
        all_of_it = (batch.acts[self.site], batch.acts[self.target], batch.trainable)
        return zip(*(v.split(sequences) for v in all_of_it), strict=True)

    def figures(self, mesh: Mesh) -> dict[str, Any]:
        """All that needs no language model."""
        figures = _about(self)
        for measure in self.measures:
            figures |= measure.result(mesh)
        return figures | threshold_distribution(self.coder, mesh)


def evaluate(
    folder: Path, source: ActivationSource, lm: LM | None, config: EvaluationConfig, world: World
) -> dict[str, Any]:
    """Measure every coder in `folder/coders`; called by all processes together.

    Args:
        folder: the run's.
        source: whose held-out sequences are read.
        lm: the language model the activations came from; None leaves its measures out.

    Returns:
        the contents of `evaluation.json`, the same on every process.

    Raises:
        UserError: no coders, a mesh that does not fit, or a store that is not theirs.
    """
    _check(config, world)
    mesh = make_mesh(world, config.latent, {})
    subjects = {path.name: _subject(path, source, mesh, world) for path in _coder_folders(folder)}
    sites = sorted({site for s in subjects.values() for site in (s.site, s.target)})
    num_sequences = 0
    for batch in _batches(source, sites, config.max_sequences, mesh, "evaluate"):
        num_sequences += len(batch.input_ids)
        for subject in subjects.values():
            subject.update(batch, config.batch_tokens)
    rungs = {name: subject.figures(mesh) for name, subject in subjects.items()}
    clean = None
    if lm is not None and config.lm_sequences:
        clean, lm_figures = _lm_figures(lm, subjects, source, config, mesh)
        rungs = {name: figures | lm_figures[name] for name, figures in rungs.items()}
    return {
        "version": 2,
        "run": folder.name,
        "store": {"path": source.about.get("store"), "manifest": source.identity},
        "lm": source.about.get("lm"),
        "sequences": int(mesh.data.sum(torch.tensor(num_sequences))),
        "tokens": max(rung["tokens"] for rung in rungs.values()),
        "clean_loss": clean,
        "rungs": rungs,
        "pairs": _pairs(subjects, rungs, source, config, mesh),
    }


def _pairs(
    subjects: dict[str, _Subject],
    rungs: dict[str, dict[str, Any]],
    source: ActivationSource,
    config: EvaluationConfig,
    mesh: Mesh,
) -> list[dict[str, Any]]:
    """Every rung compared with the next narrower one; none where coders lie in slices."""
    if not config.pairs.sequences or mesh.latent.size > 1:
        return []
    found = []
    for smaller, larger in neighbours(rungs):
        small, large = subjects[smaller], subjects[larger]

        def parts(
            most: int, doing: str, subject: _Subject = large
        ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            sites = sorted({subject.site, subject.target})
            for batch in _batches(source, sites, most, mesh, doing):
                yield from subject.parts(batch, config.batch_tokens)

        batches = parts(config.pairs.sequences, f"compare {larger}")
        few = parts(config.pairs.stitch_sequences, f"stitch {larger}")
        figures = compare(small.coder, large.coder, batches, few, config.pairs.tau, mesh)
        found.append({"smaller": smaller, "larger": larger, **figures})
    return found


def _lm_figures(
    lm: LM,
    subjects: dict[str, _Subject],
    source: ActivationSource,
    config: EvaluationConfig,
    mesh: Mesh,
) -> tuple[float, dict[str, dict[str, Any]]]:
    """The clean loss, and by coder what its reconstruction and its latents mean to the LM."""
    spliced = {
        name: Spliced(s.coder, resolve(lm.model, s.site), resolve(lm.model, s.target))
        for name, s in subjects.items()
    }
    device = next(iter(subjects.values())).coder.b_dec.device
    loss = LMLoss(lm, spliced, source.sequence_length, device)
    for batch in _batches(source, [], config.lm_sequences, mesh, "splice into the LM"):
        loss.update(batch.input_ids, batch.trainable)
    clean, figures = loss.result(mesh)
    if config.uniformity_sequences:
        uniformity = Uniformity(lm, spliced, config.uniformity_positions, mesh, device)
        for batch in _batches(source, [], config.uniformity_sequences, mesh, "attribute"):
            uniformity.update(batch.input_ids, batch.trainable)
        for name, found in uniformity.result(mesh).items():
            figures[name] |= found
    return clean, figures


def _check(config: EvaluationConfig, world: World) -> None:
    least = {
        "max_sequences": 1,
        "lm_sequences": 0,
        "uniformity_sequences": 0,
        "uniformity_positions": 1,
        "batch_tokens": 1,
        "latent": 1,
    }
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise UserError(f"{name}={value}; expected at least {bound}")
    if world.size % config.latent:
        raise UserError(
            f"latent={config.latent} must divide the {world.size} processes; choose a divisor"
        )


def _coder_folders(folder: Path) -> list[Path]:
    folders = sorted(path.parent for path in (folder / "coders").glob("*/coder.json"))
    if not folders:
        raise UserError(
            f"no coders in {folder / 'coders'}; expected a finished run: train it first"
        )
    return folders


def _subject(path: Path, source: ActivationSource, mesh: Mesh, world: World) -> _Subject:
    about = describe_coder(path)["about"]
    coder = load_coder(path, world.device, part=mesh.latent.index, parts=mesh.latent.size)
    for site, width in ((about["site"], coder.d_in), (about["target"], coder.d_out)):
        if source.widths.get(site) != width:
            raise UserError(
                f"{path.name} wants {site} of width {width}; the store has {source.widths}: "
                "evaluate with store=… set to the store it was trained on"
            )
    return _Subject(
        distribute(coder, mesh),
        about["site"],
        about["target"],
        [
            Fidelity(coder.d_out, world.device),
            Similarity(world.device),
            ReconstructionByPosition(source.sequence_length, coder.d_out, world.device),
            FiringFrequency(len(coder.latents), world.device),
            ConsistentActivation(len(coder.latents), world.device),
        ],
    )


def _batches(
    source: ActivationSource, sites: list[str], most: int | None, mesh: Mesh, desc: str
) -> Iterator[HeldOutBatch]:
    """This part's batches of the first sequences, with a progress bar over those of all parts."""
    total = min(source.num_held_out, most or source.num_held_out)
    batches = source.held_out(sites, mesh.data.index, mesh.data.size, most)
    with progress(total=total, desc=desc, unit="sequence") as bar:
        for batch in batches:
            yield batch
            bar.update(min(len(batch.input_ids) * mesh.data.size, total - bar.n))


def _about(subject: _Subject) -> dict[str, Any]:
    config = subject.coder.config
    return {
        "kind": config.kind.value,
        "form": config.form.value,
        "site": subject.site,
        "target": subject.target,
        "num_latents": config.num_latents,
        "k": None if subject.coder.threshold is not None else config.k,
        "d_in": subject.coder.d_in,
        "d_out": subject.coder.d_out,
    }
