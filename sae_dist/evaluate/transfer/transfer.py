"""Coders of a base language model, and of its finetune, on what the finetune says."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.common.settings import validate
from sae_dist.evaluate.fidelity import Fidelity
from sae_dist.evaluate.transfer.config import TransferConfig
from sae_dist.evaluate.transfer.conversations import PARTS, Conversations, Prompt, converse
from sae_dist.evaluate.transfer.loss import LossByPart
from sae_dist.evaluate.transfer.norms import MeanNorm
from sae_dist.evaluate.transfer.rescaled import Rescaled
from sae_dist.evaluate.transfer.subjects import Subject, Trained, load_subjects, trained_norms
from sae_dist.lm import LM, Capture
from sae_dist.parallel import Mesh

_VARIANTS = ("", "_rescaled")


def transfer(
    lm: LM,
    prompts: Sequence[Prompt],
    special: Sequence[int],
    trained: Sequence[Trained],
    config: TransferConfig,
    mesh: Mesh,
) -> dict[str, Any]:
    """Measure coders on rollouts of a finetune; called by all processes together.

    Args:
        lm: the finetune.
        prompts: between its prefixes.
        special: ids that are never measured.
        trained: the base run, and perhaps the finetune's.

    Returns:
        `transfer` of `evaluation.json`, the same on every process.

    Raises:
        UserError: coders that do not fit the finetune, sequences that are too long for it, or
            prompts or rollouts without a token to measure.
    """
    validate(config, "transfer.")
    _require_room(lm, prompts, config)
    device = lm.model.device
    subjects = load_subjects(trained, lm, mesh, device)
    talks = list(converse(lm, prompts, special, config, mesh))
    return {
        "lm": lm.config.name,
        "lm_commit": lm.revision,
        "temperature": config.temperature,
        "seed": config.seed,
        "sequences": config.sequences,
        **_token_counts(talks, mesh, device),
        **_figures(lm, subjects, talks, config, mesh),
    }


def _figures(
    lm: LM,
    subjects: Sequence[Subject],
    talks: Sequence[Conversations],
    config: TransferConfig,
    mesh: Mesh,
) -> dict[str, Any]:
    """The clean loss, and what each coder makes of the conversations, as it is and rescaled."""
    sites = {site.name: site for s in subjects for site in (s.spliced.read, s.spliced.write)}
    capture = Capture(lm.model, list(sites.values()))
    factors = _factors(subjects, capture, talks, config, mesh)
    coders = {}
    for subject in subjects:
        coders[subject.name, ""] = Rescaled(subject.spliced)
        coders[subject.name, "_rescaled"] = Rescaled(subject.spliced, *factors[subject.name])
    device = subjects[0].spliced.coder.b_dec.device
    loss = LossByPart(lm, coders, device)
    fidelity = {
        (key, part): Fidelity(coder.spliced.coder.d_out, device)
        for key, coder in coders.items()
        for part in PARTS
    }
    for talk in _shown(talks, "splice into the finetune", config, mesh):
        acts, masks = capture(talk.ids_NS), dict(zip(PARTS, talk.masks_PNS, strict=True))
        for (key, part), sums in fidelity.items():
            if masks[part].any():  # a batch may be silent
                sums.update(coders[key].run_coder(acts, masks[part]))
        loss.update(talk)
    clean, deltas = loss.result(mesh)
    found = {place: sums.result(mesh) for place, sums in fidelity.items()}
    rungs = {}
    for subject in subjects:
        rungs[subject.name] = _about(subject, *factors[subject.name])
        for part in PARTS:
            figures: dict[str, Any] = {"tokens": found[(subject.name, ""), part]["tokens"]}
            for variant in _VARIANTS:
                key = subject.name, variant
                figures |= {name + variant: found[key, part][name] for name in ("l0", "fvu")}
                figures["delta_loss" + variant] = deltas[key][part]
            rungs[subject.name][part] = figures
    return {"clean_loss": clean, "rungs": rungs}


def _factors(
    subjects: Sequence[Subject],
    capture: Capture,
    talks: Sequence[Conversations],
    config: TransferConfig,
    mesh: Mesh,
) -> dict[str, tuple[float, float]]:
    """By what each coder's input and target are made as long as where it was trained."""
    device = subjects[0].spliced.coder.b_dec.device
    sites = sorted({s.name for f in subjects for s in (f.spliced.read, f.spliced.write)})
    mean_norm = MeanNorm(sites, device)
    for talk in _shown(talks, "measure norms", config, mesh):
        mean_norm.update(capture(talk.ids_NS), talk.measured_NS)
    here = mean_norm.result(mesh)
    there = trained_norms(subjects, config, mesh, device)
    for site in (site for site in sites if here[site] == 0):
        raise UserError(
            f"found activations of zeros at {site} of the finetune; expected some of another "
            "length; set transfer.lm_name to a finetune of this language model"
        )
    factors = {}
    for subject in subjects:
        names = subject.spliced.read.name, subject.spliced.write.name
        a, b = (there[subject.run.on, name] / here[name] for name in names)
        factors[subject.name] = a, b
    return factors


def _about(subject: Subject, a: float, b: float) -> dict[str, Any]:
    config = subject.spliced.coder.config
    return {
        "trained_on": subject.run.on,
        "run": subject.run.folder.name,
        "rung": subject.rung,
        "kind": config.kind,
        "form": config.form.value,
        "site": subject.spliced.read.name,
        "target": subject.spliced.write.name,
        "num_latents": config.num_latents,
        "k": config.aim.get("k"),
        "rescaled_by": {"input": a, "target": b},
    }


def _shown(
    talks: Sequence[Conversations], desc: str, config: TransferConfig, mesh: Mesh
) -> Iterator[Conversations]:
    with progress(total=config.sequences, desc=desc, unit="sequence") as bar:
        for talk in talks:
            yield talk
            bar.update(min(len(talk.ids_NS) * mesh.data.size, config.sequences - bar.n))


def _token_counts(
    talks: Sequence[Conversations], mesh: Mesh, device: torch.device
) -> dict[str, int]:
    """How many tokens of each part are measured; every part needs some that can be predicted."""
    counts_P = torch.zeros(len(PARTS), dtype=torch.int64, device=device)
    for talk in talks:
        counts_P += talk.masks_PNS[..., 1:].sum((1, 2))
    counts = dict(zip(PARTS, mesh.data.all_reduce(counts_P).tolist(), strict=True))
    for part, number in counts.items():
        if number < 2:
            raise UserError(
                f"found {number} tokens of {part}s that are not special; expected many; give more "
                "prompts, or look at what the finetune says at this temperature"
            )
    return {f"{part}_tokens": number for part, number in counts.items()}


def _require_room(lm: LM, prompts: Sequence[Prompt], config: TransferConfig) -> None:
    longest = max(len(prompt.ids) for prompt in prompts) + config.rollout_tokens
    positions = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise UserError(
            f"found sequences of up to {longest} tokens; expected at most {positions}, all that "
            f"{lm.config.name} takes; lower transfer.prompt_tokens or transfer.rollout_tokens"
        )
