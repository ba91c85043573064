"""Streams held-out activations through all coders of a run, into every measure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.common.figures import not_finite, or_null
from sae_dist.common.log import log_info
from sae_dist.evaluate.batches import held_out_batches
from sae_dist.evaluate.config import EvaluationConfig, check
from sae_dist.evaluate.ladder import comparison, dead_by_width, scaling_laws
from sae_dist.evaluate.lm_loss import LMLoss, Spliced
from sae_dist.evaluate.pairs import compare, neighbours
from sae_dist.evaluate.subject import Subject, load_subjects
from sae_dist.evaluate.uniformity import Uniformity
from sae_dist.lm import LM, resolve
from sae_dist.parallel import Mesh, World, make_mesh
from sae_dist.stream import ActivationSource, HeldOutBatch

VERSION = 3
"""Of `evaluation.json`: what its keys mean."""


def evaluate(
    folder: Path, source: ActivationSource, lm: LM | None, config: EvaluationConfig, world: World
) -> dict[str, Any]:
    """Measure every coder in `folder/coders`; called by all processes together.

    What each latent of a larger coder would add to a smaller one goes to `folder/pairs`.

    Args:
        folder: the run's.
        source: whose held-out sequences are read.
        lm: the language model the activations came from; None leaves its measures out.

    Returns:
        the contents of `evaluation.json`, the same on every process. None is what is not defined,
        and what is not finite; of the latter a line tells.

    Raises:
        UserError: no coders, a mesh that does not fit, a store that is not theirs, or no token in
            it that is measured.
    """
    check(config, world)
    mesh = make_mesh(world, config.latent, {})
    subjects = load_subjects(folder, source, mesh, world)
    sites = sorted({site for subject in subjects.values() for site in subject.sites})
    num_sequences, size = 0, _batch_sequences(config, source)
    for batch in held_out_batches(source, sites, config.max_sequences, size, mesh, "evaluate"):
        num_sequences += len(batch)
        for subject in subjects.values():
            subject.update(batch)
    rungs = {name: subject.figures(mesh) for name, subject in subjects.items()}
    tokens = max(rung["tokens"] for rung in rungs.values())
    if not tokens:
        raise UserError(
            f"found no token to measure in {source.about.get('store')}; expected some that are "
            "trainable among the held-out ones; hold out more, or raise max_sequences"
        )
    clean = None
    if lm is not None and config.lm_sequences:
        clean, lm_figures = _lm_figures(lm, subjects, source, config, mesh)
        rungs = {name: figures | lm_figures[name] for name, figures in rungs.items()}
    rungs = _finite(rungs)
    return {
        "version": VERSION,
        "run": folder.name,
        "store": {"path": source.about.get("store"), "manifest": source.identity},
        "lm": source.about.get("lm"),
        "sequences": int(mesh.data.all_reduce(torch.tensor(num_sequences))),
        "tokens": tokens,
        "clean_loss": or_null(clean),
        "rungs": rungs,
        "pairs": _pairs(folder, subjects, rungs, source, config, mesh),
        "ladder": {"scaling_laws": scaling_laws(rungs), "dead_by_width": dead_by_width(rungs)},
        "comparison": comparison(rungs),
    }


def _lm_figures(
    lm: LM,
    subjects: dict[str, Subject],
    source: ActivationSource,
    config: EvaluationConfig,
    mesh: Mesh,
) -> tuple[float | None, dict[str, dict[str, Any]]]:
    """The clean loss, and by coder what its reconstruction and its latents mean to the LM."""
    spliced = {
        name: Spliced(s.coder, resolve(lm.model, s.site), resolve(lm.model, s.target))
        for name, s in subjects.items()
    }
    device = next(iter(subjects.values())).coder.b_dec.device
    size = config.lm_batch_sequences or _batch_sequences(config, source)

    def batches(most: int, doing: str) -> Iterator[HeldOutBatch]:
        return held_out_batches(source, [], most, size, mesh, doing)

    loss = LMLoss(lm, spliced, source.sequence_length, device)
    for batch in batches(config.lm_sequences, "splice into the LM"):
        loss.update(batch.input_ids, batch.trainable)
    clean, figures = loss.result(mesh)
    if config.uniformity_sequences:
        uniformity = Uniformity(lm, spliced, config.uniformity_positions, mesh, device)
        for batch in batches(config.uniformity_sequences, "attribute"):
            uniformity.update(batch.input_ids, batch.trainable)
        for name, found in uniformity.result(mesh).items():
            figures[name] |= found
    return clean, figures


def _pairs(
    folder: Path,
    subjects: dict[str, Subject],
    rungs: dict[str, dict[str, Any]],
    source: ActivationSource,
    config: EvaluationConfig,
    mesh: Mesh,
) -> list[dict[str, Any]]:
    """Every rung compared with the next narrower one, latent by latent in files of `folder`."""
    if not config.pairs.sequences:
        return []
    found, size = {}, _batch_sequences(config, source)
    for smaller, larger in neighbours(rungs):
        small, large = subjects[smaller], subjects[larger]

        def parts(
            most: int, doing: str, subject: Subject = large
        ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for batch in held_out_batches(source, subject.sites, most, size, mesh, doing):
                yield subject.part(batch)

        batches = parts(config.pairs.sequences, f"compare {larger}")
        few = parts(config.pairs.stitch_sequences, f"stitch {larger}")
        path = f"pairs/{larger}.safetensors"
        coders = small.coder, large.coder
        figures = compare(*coders, batches, few, config.pairs.tau, mesh, folder / path)
        about = {"smaller": smaller, "larger": larger, "by_latent": path}
        found[f"{smaller} and {larger}"] = about | figures
    return list(_finite(found).values())


def _batch_sequences(config: EvaluationConfig, source: ActivationSource) -> int:
    return max(1, config.batch_tokens // source.sequence_length)


def _finite(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same with None for what is not finite, which is told coder by coder."""
    for name, own in figures.items():
        if places := list(not_finite(own)):
            more = f" and {len(places) - 3} others" if len(places) > 3 else ""
            log_info(
                f"warning: {name}: {', '.join(places[:3])}{more} are not finite, and null in the "
                "evaluation: a coder has diverged, or its activations have"
            )
    return or_null(figures)  # type: ignore[no-any-return]
