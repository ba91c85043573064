"""Streams held-out activations through all coders of a run, into every measure."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import Coder, describe_coder, load_coder
from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.evaluate.fidelity import Fidelity
from sae_dist.evaluate.frequency import FiringFrequency
from sae_dist.evaluate.lm_loss import LMLoss, Spliced
from sae_dist.lm import LM, resolve
from sae_dist.parallel import Mesh, World, distribute, make_mesh
from sae_dist.stream import ActivationSource, HeldOutBatch


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How much is evaluated, and on which mesh.

    `max_sequences` (null: all) bounds the held-out sequences; `lm_sequences` those of them that
    are also run through the language model (0: none). `batch_tokens` pass a coder at once.
    `latent` processes share each coder's latents, the others its sequences.
    """

    max_sequences: int | None = None
    lm_sequences: int = 2048
    batch_tokens: int = 4096
    latent: int = 1


@dataclass(frozen=True, slots=True)
class _Subject:
    """A coder under evaluation."""

    coder: Coder
    site: str
    target: str
    fidelity: Fidelity
    frequency: FiringFrequency

    @torch.no_grad()
    def update(self, batch: HeldOutBatch, batch_tokens: int) -> None:
        trainable_NS, device = batch.trainable, self.coder.b_dec.device
        x_TD, y_TE = (
            batch.acts[site][trainable_NS].split(batch_tokens) for site in (self.site, self.target)
        )
        for x_BD, y_BE in zip(x_TD, y_TE, strict=True):
            x_BD, y_BE = (v.to(device, self.coder.W_enc.dtype) for v in (x_BD, y_BE))
            code, acts_N = self.coder.encode_sparse(x_BD)
            reconstruction_BE = self.coder.reconstruct_sparse(code, acts_N, x_BD)
            self.fidelity.update(len(acts_N), y_BE, reconstruction_BE)
            self.frequency.update(code.count_by_latent(), len(x_BD))


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
    loss = _lm_loss(lm, subjects, world) if lm is not None and config.lm_sequences else None

    sites = sorted({site for s in subjects.values() for site in (s.site, s.target)})
    num_sequences = 0
    for batch in _batches(source, sites, config, mesh):
        num_sequences += len(batch.input_ids)
        for subject in subjects.values():
            subject.update(batch, config.batch_tokens)
    if loss is not None:
        lm_config = EvaluationConfig(max_sequences=config.lm_sequences)
        for batch in _batches(source, [], lm_config, mesh):
            loss.update(batch.input_ids, batch.trainable)

    clean, lm_figures = loss.result(mesh) if loss is not None else (None, {})
    rungs = {
        name: {
            **_about(subject),
            **subject.fidelity.result(mesh),
            **subject.frequency.result(mesh),
            **lm_figures.get(name, {}),
        }
        for name, subject in subjects.items()
    }
    return {
        "version": 1,
        "run": folder.name,
        "store": {"path": source.about.get("store"), "manifest": source.identity},
        "lm": source.about.get("lm"),
        "sequences": int(mesh.data.sum(torch.tensor(num_sequences))),
        "tokens": max(rung["tokens"] for rung in rungs.values()),
        "clean_loss": clean,
        "rungs": rungs,
    }


def _check(config: EvaluationConfig, world: World) -> None:
    least = {"max_sequences": 1, "lm_sequences": 0, "batch_tokens": 1, "latent": 1}
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
        Fidelity(coder.d_out, world.device),
        FiringFrequency(len(coder.latents), world.device),
    )


def _lm_loss(lm: LM, subjects: dict[str, _Subject], world: World) -> LMLoss:
    spliced = {
        name: Spliced(
            subject.coder, resolve(lm.model, subject.site), resolve(lm.model, subject.target)
        )
        for name, subject in subjects.items()
    }
    return LMLoss(lm, spliced, world.device)


def _batches(
    source: ActivationSource, sites: list[str], config: EvaluationConfig, mesh: Mesh
) -> Iterator[HeldOutBatch]:
    """This part's batches, with a progress bar over those of all parts."""
    total = min(source.num_held_out, config.max_sequences or source.num_held_out)
    batches = source.held_out(sites, mesh.data.index, mesh.data.size, config.max_sequences)
    desc = "evaluate" if sites else "splice into the LM"
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
