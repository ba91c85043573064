"""Coders of a base language model, and of its finetune, on what the finetune reads and says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import sae_dist.lm as language  # lazily: what only declares needs no transformers
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.common.errors import UserError
from sae_dist.common.groups import held_together
from sae_dist.common.log import progress
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.common.settings import validate
from sae_dist.evaluate.candidates import Candidate, finished
from sae_dist.evaluate.config import EvaluationConfig, TransferConfig
from sae_dist.evaluate.conversations import PARTS, Conversations, Prompt, converse
from sae_dist.evaluate.lm_batch import replacement_by
from sae_dist.evaluate.measure import Figures, Subject
from sae_dist.evaluate.measures.coder import Description
from sae_dist.evaluate.measures.fidelity import FVU_AXIS, L0_AXIS, Fidelity
from sae_dist.evaluate.output import CoderOutput, run_coder
from sae_dist.evaluate.registry import Declared, Needs
from sae_dist.evaluate.results import read_figures, run_path, write_figures
from sae_dist.evaluate.topics import GEMMA_SCOPE, TRANSFER
from sae_dist.parallel import Mesh
from sae_dist.stream import ActivationSource, HeldOutPart

if TYPE_CHECKING:
    from sae_dist.lm import LM

_SETTINGS = ("sequences", "rollout_tokens", "temperature", "seed")  # that the rows depend on
_SCALED = "on activations scaled to the mean norm of what the coder was trained on, ŷ = coder(a x)"
_DELTA = "CE(spliced) − CE(clean) over the part’s tokens, in place at all measured ones"
_FIGURES = {
    "l0": ("L0", "mean number of active latents a token", ""),
    "fvu": ("FVU", "fraction of variance unexplained, μ over the part", ""),
    "delta_loss": ("Δ loss", _DELTA, "nats a token"),
}


class Transfer(Declared):
    """Coders on rollouts of a finetune (Lieberum et al. 2024, 4.5, C.4)."""

    name = "transfer"
    needs = Needs.FINETUNE
    topic = TRANSFER
    group = "On the finetune"
    caption = "Special tokens are left out."
    figures = (
        Figure(
            "name",
            "coder",
            "one of this run leads to its page; of the finetune’s own run, `RUN/RUNG`",
            write=Write.RUNG,
            is_main=True,
        ),
        Figure("trained_on", "trained on", "`base` or `finetuned`", write=Write.TEXT),
        Figure(
            "part",
            "part",
            "`prompt`: the prompt with the model’s prefix; `rollout`: what the finetune "
            "said, whose first token the prefix predicts",
            source=f"{GEMMA_SCOPE}, figs. 19, 20; 8, 21, 22",
            write=Write.TEXT,
            is_main=True,
        ),
        *(
            Figure(
                key + suffix,
                heading + words,
                definition + told,
                unit=unit,
                source=source,
                is_main=not suffix,
            )
            for suffix, words, told, source in (
                ("", "", "", GEMMA_SCOPE),
                ("_rescaled", ", rescaled", f", {_SCALED} / b", f"{GEMMA_SCOPE}, fig. 23"),
            )
            for key, (heading, definition, unit) in _FIGURES.items()
        ),
        Figure(
            "rescaled_by/input",
            "",
            "a: E‖x‖ where the coder was trained (held-out tokens of its store, at most "
            "`sequences` sequences) over E‖x‖ here; `target`: b, the same of what it reconstructs",
        ),
    )
    plots = (
        Plot(
            "transfer-delta-loss",
            Mark.BARS,
            "Delta loss on a finetune",
            "How much the finetune’s cross-entropy rises when a coder’s output is spliced "
            "into it, on the user’s prompt and on what the finetune itself wrote in answer.",
            source=f"{GEMMA_SCOPE}, figs. 8 (rollouts) and 20 (prompts)",
            y=Axis("Δ loss (nats a token)", "delta_loss", log=False, zero=True),
            panel="part",
            hollow=("trained_on", "finetuned"),
            rung="name",
        ),
        Plot(
            "transfer-fvu",
            Mark.BARS,
            "FVU on a finetune",
            "Fraction of variance unexplained of the finetune’s activations.",
            source=f"{GEMMA_SCOPE}, figs. 19 (prompts), 21 and 22 (rollouts)",
            y=Axis(FVU_AXIS.label, "fvu", log=False, zero=True),
            panel="part",
            hollow=("trained_on", "finetuned"),
            rung="name",
        ),
        Plot(
            "rescaled",
            Mark.POINTS,
            "Activations rescaled to the base’s norm",
            "FVU against L0 of each coder on the finetune’s activations as they are, and "
            "(small dot at the other end) on them scaled to the mean norm of what it was trained "
            "on.",
            source=f"{GEMMA_SCOPE}, fig. 23",
            x=Axis(L0_AXIS.label, "l0", to="l0_rescaled"),
            y=Axis(FVU_AXIS.label, "fvu", to="fvu_rescaled"),
            panel="part",
            hollow=("trained_on", "finetuned"),
            rung="name",
        ),
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run: `on` is "base" or "finetuned", `source` what its coders were trained on."""

    on: str
    folder: Path
    source: ActivationSource

    def called(self, rung: str) -> str:
        """The rung's name, with the run's before it if that is the finetune's: they may agree."""
        return rung if self.on == "base" else f"{self.folder.name}/{rung}"


def transfer(
    lm: "LM",
    prompts: Sequence[Prompt],
    special: Sequence[int],
    trained: Sequence[Trained],
    config: TransferConfig,
    mesh: Mesh,
) -> Figures:
    """Measure coders on rollouts of a finetune; called by all processes together.

    The figures go to the base run's evaluation; if they are there already, of the same coders,
    prompts and settings, nothing is done.

    Args:
        lm: the finetune.
        prompts: between its prefixes.
        special: ids that are never measured.
        trained: the base run, and perhaps the finetune's.

    Returns:
        the figures, the same on every process: `rows` by coder and part, and what they are of.

    Raises:
        UserError: coders that do not fit the finetune, sequences that are too long for it, or
            prompts or rollouts without a token to measure.
    """
    validate(config, "transfer.")
    _require_room(lm, prompts, config)
    coders = [(run, c) for run in trained for c in _chosen(run, config, lm)]
    path = run_path(trained[0].folder, Transfer.name)
    of = {
        "version": Transfer.version,
        "coders": [candidate.fingerprint for _, candidate in coders],
        "stores": [run.source.identity for run in trained],
        "lm": lm.revision,
        "prompts": sha256(repr([(p.ids, p.measured) for p in prompts]).encode()).hexdigest(),
        **{key: asdict(config)[key] for key in _SETTINGS},
    }
    known: Figures | None = on_first_rank(None, lambda: read_figures(path, of))
    if known is not None:
        return known
    talks = list(converse(lm, prompts, special, config, mesh))
    counts = dict(zip(PARTS, map(int, _tokens_P(talks, lm, mesh)), strict=True))
    for part, number in counts.items():
        if number < 2:
            raise UserError(
                f"found {number} tokens of {part}s that are not special; expected many; give more "
                "prompts, or look at what the finetune says at this temperature"
            )
    figures = {
        "lm": lm.config.name,
        "lm_commit": lm.revision,
        **{key: asdict(config)[key] for key in ("prompts", "template", "temperature", "seed")},
        "sequences": config.sequences,
        **{f"{part}_tokens": number for part, number in counts.items()},
        **measure_on(lm, coders, talks, config, mesh),
    }
    on_first_rank(None, lambda: write_figures(path, of, figures))
    return figures


def _chosen(run: Trained, config: TransferConfig, lm: "LM") -> list[Candidate]:
    found = finished(run.folder, lm.model.device)
    asked = rungs_asked_for(config.rungs, [c.name for c in found], of=run.folder.name)
    return [candidate for candidate in found if candidate.name in asked]


def measure_on(
    lm: "LM",
    coders: Sequence[tuple[Trained, Candidate]],
    talks: Sequence[Conversations],
    config: TransferConfig,
    mesh: Mesh,
) -> Figures:
    """`clean_loss` by part, and `rows`: what each coder makes of the conversations, as it is and
    rescaled. Coders are held at once as `held_together` has them.
    """
    _require_widths(lm, coders)
    sites = sorted({site for _, c in coders for site in (c.site, c.target)})
    here = _norms_here(lm, sites, talks, mesh)
    there = _trained_norms(coders, config, mesh, lm.model.device)
    tokens_P, clean_P = _tokens_P(talks, lm, mesh), _zeros_P(lm)
    for talk in progress(talks, desc="pass the finetune", unit="batch"):
        clean_P += _loss_P(lm, talk)
    clean_P = mesh.data.all_reduce(clean_P)
    rows: dict[str, list[Figures]] = {}
    for together in held_together(coders, key=lambda one: one[1].num_latents):
        held = []
        for run, candidate in together:
            subject = candidate.subject(mesh, 0, EvaluationConfig())
            a, b = (there[run.on, s] / here[s] for s in (candidate.site, candidate.target))
            held.append((run, _OnParts(lm, subject), _OnParts(lm, subject, a, b)))
        capture = _capture(lm, {s for _, plain, _ in held for s in plain.sites})
        for talk in progress(talks, desc="splice into the finetune", unit="batch"):
            acts = capture(talk.ids_NS)
            for variant in (v for _, *variants in held for v in variants):
                variant.update(acts, talk)
        for run, plain, rescaled in held:
            about = _about(run, rescaled)
            both = (variant.result(clean_P, tokens_P) for variant in (plain, rescaled))
            rows[about["name"]] = [
                about | {"part": part} | own | {f"{key}_rescaled": scaled[key] for key in _FIGURES}
                for part, own, scaled in zip(PARTS, *both, strict=True)
            ]
    clean = dict(zip(PARTS, (clean_P / tokens_P).tolist(), strict=True))
    in_order = [row for run, c in coders for row in rows[run.called(c.name)]]
    return {"clean_loss": clean, "rows": in_order}


class _OnParts:
    """ŷ = coder(a x) / b on the parts of conversations: L0, FVU and the loss with it in place.

    With a the mean of ‖x‖ where the coder was trained over that where it is used now, and b the
    same of its target, this rescales activations "to have same norm in expectation" (Lieberum et
    al. 2024, C.4, fig. 23). An autoencoder has a = b. With a = b = 1 it is the coder itself.
    """

    def __init__(self, lm: "LM", subject: Subject, a: float = 1.0, b: float = 1.0) -> None:
        self.lm, self.subject, self.a, self.b = lm, subject, a, b
        self.sites = subject.site, subject.target
        self._fidelity = [Fidelity(subject) for _ in PARTS]
        self._loss_P = _zeros_P(lm)

    def update(self, acts: Mapping[str, Tensor], talk: Conversations) -> None:
        """Add a batch; the coder takes the place of every measured token, in both parts alike."""
        for fidelity, mask_NS in zip(self._fidelity, talk.masks_PNS, strict=True):
            if mask_NS.any():  # a batch may be silent
                fidelity.update(self.run_coder(acts, mask_NS))
        read, write = (language.resolve(self.lm.model, site) for site in self.sites)
        with language.splice(self.lm.model, read, write, self.replace, ~talk.measured_NS):
            self._loss_P += _loss_P(self.lm, talk)

    def run_coder(self, acts: Mapping[str, Tensor], measured_NS: Tensor) -> CoderOutput:
        """The code of a x and the reconstruction of b y: their L0 and FVU are those of ŷ and y."""
        x_NSD, y_NSE = (acts[site].to(self.subject.coder.W_enc.dtype) for site in self.sites)
        return run_coder(self.subject.coder, x_NSD * self.a, y_NSE * self.b, measured_NS)

    def replace(self, x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        """ŷ [N, S, E], as `lm.splice` asks for it."""
        coder = self.subject.coder
        return replacement_by(coder)(x_NSD.to(coder.W_enc.dtype) * self.a, y_NSE) / self.b

    def result(self, clean_P: Tensor, tokens_P: Tensor) -> list[Figures]:
        """By part; from the clean losses and numbers of tokens of all processes."""
        loss_P = self.subject.mesh.data.all_reduce(self._loss_P)
        deltas = ((loss_P - clean_P) / tokens_P).tolist()
        found = [fidelity.result() for fidelity in self._fidelity]
        return [
            {key: own[key] for key in ("tokens", "l0", "fvu")} | {"delta_loss": delta}
            for own, delta in zip(found, deltas, strict=True)
        ]


def mean_norms(
    passed: Iterable[tuple[Mapping[str, Tensor], Tensor]],
    sites: Sequence[str],
    mesh: Mesh,
    device: torch.device,
) -> dict[str, float]:
    """The mean of ‖x‖ at each of some sites; called by all processes together.

    Args:
        passed: this process' activations [N, S, D] by site, and which tokens are measured [N, S].
    """
    sums = torch.zeros(1 + len(sites), dtype=torch.float64, device=device)
    for acts, measured_NS in passed:
        sums[0] += measured_NS.sum().to(device)
        for number, site in enumerate(sites, 1):
            sums[number] += acts[site][measured_NS].to(device).double().norm(dim=1).sum()
    tokens, *norms = mesh.data.all_reduce(sums)
    return {site: float(norm / tokens) for site, norm in zip(sites, norms, strict=True)}


def _norms_here(
    lm: "LM", sites: Sequence[str], talks: Sequence[Conversations], mesh: Mesh
) -> dict[str, float]:
    capture = _capture(lm, sites)
    bar = progress(talks, desc="measure norms", unit="batch")
    passed = ((capture(talk.ids_NS), talk.measured_NS) for talk in bar)
    norms = mean_norms(passed, sites, mesh, lm.model.device)
    for site in (site for site in sites if norms[site] == 0):
        raise UserError(
            f"found activations of zeros at {site} of the finetune; expected some of another "
            "length; set transfer.lm_name to a finetune of this language model"
        )
    return norms


def _trained_norms(
    coders: Sequence[tuple[Trained, Candidate]],
    config: TransferConfig,
    mesh: Mesh,
    device: torch.device,
) -> dict[tuple[str, str], float]:
    """By run and site the mean norm of what its coders were trained on, of held-out sequences."""
    norms: dict[tuple[str, str], float] = {}
    for run in {run.on: run for run, _ in coders}.values():
        sites = sorted({s for own, c in coders if own is run for s in (c.site, c.target)})
        data, size = mesh.data, config.batch_sequences
        part = HeldOutPart(data.index, data.size, config.sequences, size)
        passed = ((batch.acts, batch.trainable) for batch in run.source.held_out(sites, part))
        found = mean_norms(passed, sites, mesh, device)
        norms |= {(run.on, site): norm for site, norm in found.items()}
    return norms


def _capture(lm: "LM", sites: Iterable[str]) -> "language.Capture":
    return language.Capture(lm.model, [language.resolve(lm.model, site) for site in sorted(sites)])


def _zeros_P(lm: "LM") -> Tensor:
    return torch.zeros(len(PARTS), dtype=torch.float64, device=lm.model.device)


@torch.no_grad()
def _loss_P(lm: "LM", talk: Conversations) -> Tensor:
    """A token counts to the part it is in, wherever it is predicted from."""
    loss_NS = language.next_token_loss_NS(lm.model, talk.ids_NS).double()
    return loss_NS.where(talk.masks_PNS[..., 1:], 0.0).sum((1, 2))


def _tokens_P(talks: Sequence[Conversations], lm: "LM", mesh: Mesh) -> Tensor:
    """How many tokens of each part can be predicted, of all processes."""
    tokens_P = _zeros_P(lm)
    for talk in talks:
        tokens_P += talk.masks_PNS[..., 1:].sum((1, 2))
    return mesh.data.all_reduce(tokens_P)


def _about(run: Trained, rescaled: _OnParts) -> Figures:
    described = Description(rescaled.subject).result()
    kept = ("kind", "form", "site", "target", "num_latents", "k")
    return {
        "name": run.called(rescaled.subject.name),
        "trained_on": run.on,
        "run": run.folder.name,
        "rung": rescaled.subject.name,
        **{key: described[key] for key in kept},
        "rescaled_by": {"input": rescaled.a, "target": rescaled.b},
    }


def _require_widths(lm: "LM", coders: Sequence[tuple[Trained, Candidate]]) -> None:
    sites = {site for _, c in coders for site in (c.site, c.target)}
    widths = language.site_widths(_capture(lm, sites), lm.model.device)
    for run, candidate in coders:
        for site, width in ((candidate.site, candidate.d_in), (candidate.target, candidate.d_out)):
            if widths[site] != width:
                raise UserError(
                    f"found {site} of width {widths[site]} in {lm.config.name}; expected {width}, "
                    f"as coder {run.called(candidate.name)} has; set transfer.lm_name to a "
                    "finetune of the run's language model"
                )


def _require_room(lm: "LM", prompts: Sequence[Prompt], config: TransferConfig) -> None:
    longest = max(len(prompt.ids) for prompt in prompts) + config.rollout_tokens
    positions = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise UserError(
            f"found sequences of up to {longest} tokens; expected at most {positions}, all that "
            f"{lm.config.name} takes; lower transfer.prompt_tokens or transfer.rollout_tokens"
        )
