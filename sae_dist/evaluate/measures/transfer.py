"""Coders of a base language model, and of its finetune, on what the finetune reads and says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import sae_dist.lm as language  # lazily: what only declares needs no transformers
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.common.settings import validate
from sae_dist.evaluate.candidates import Candidate, finished
from sae_dist.evaluate.config import EvaluationConfig, TransferConfig
from sae_dist.evaluate.conversations import PARTS, Conversations, Prompt, converse
from sae_dist.evaluate.lm_batch import replacement_by
from sae_dist.evaluate.measure import Declared, Figures, Needs, Subject
from sae_dist.evaluate.measures.fidelity import FVU_AXIS, L0_AXIS, Fidelity
from sae_dist.evaluate.output import CoderOutput, run_coder
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
    coders = [(run, c) for run in trained for c in finished(run.folder, lm.model.device)]
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
    figures = {
        "lm": lm.config.name,
        "lm_commit": lm.revision,
        "prompts": config.prompts,
        "template": config.template,
        "temperature": config.temperature,
        "seed": config.seed,
        "sequences": config.sequences,
        **_token_counts(talks, mesh, lm.model.device),
        **measure_on(lm, coders, talks, config, mesh),
    }
    on_first_rank(None, lambda: write_figures(path, of, figures))
    return figures


def measure_on(
    lm: "LM",
    coders: Sequence[tuple[Trained, Candidate]],
    talks: Sequence[Conversations],
    config: TransferConfig,
    mesh: Mesh,
) -> Figures:
    """`clean_loss` by part, and `rows`: what each coder makes of the conversations, as it is and
    rescaled. Coders of one width are held at once.
    """
    _require_widths(lm, coders)
    sites = sorted({site for _, c in coders for site in (c.site, c.target)})
    capture, norms = _capture(lm, sites), MeanNorm(sites, lm.model.device)
    clean_P = torch.zeros(len(PARTS), dtype=torch.float64, device=lm.model.device)
    tokens_P = torch.zeros_like(clean_P)
    for talk in progress(talks, desc="measure norms", unit="batch"):
        norms.update(capture(talk.ids_NS), talk.measured_NS)
        tokens_P += talk.masks_PNS[..., 1:].sum((1, 2))
        clean_P += _loss_P(lm, talk)
    tokens_P, clean_P = mesh.data.all_reduce(tokens_P), mesh.data.all_reduce(clean_P)
    here, there = norms.result(mesh), _trained_norms(coders, config, mesh, lm.model.device)
    for site in (site for site in sites if here[site] == 0):
        raise UserError(
            f"found activations of zeros at {site} of the finetune; expected some of another "
            "length; set transfer.lm_name to a finetune of this language model"
        )
    rows = []
    for width in sorted({candidate.num_latents for _, candidate in coders}):
        held = []
        for run, candidate in (both for both in coders if both[1].num_latents == width):
            subject = candidate.subject(mesh, 0, EvaluationConfig())
            a, b = (there[run.on, s] / here[s] for s in (candidate.site, candidate.target))
            plain, rescaled = _OnParts(lm, subject), _OnParts(lm, subject, a, b)
            held.append((_about(run, subject, a, b), plain, rescaled))
        capture = _capture(lm, {s for _, plain, _ in held for s in plain.subject.sites})
        for talk in progress(talks, desc="splice into the finetune", unit="batch"):
            acts = capture(talk.ids_NS)
            for variant in (v for _, *variants in held for v in variants):
                variant.update(acts, talk)
        for about, plain, rescaled in held:
            both = plain.result(clean_P, tokens_P), rescaled.result(clean_P, tokens_P)
            for part in PARTS:
                scaled = {f"{key}_rescaled": both[1][part][key] for key in _FIGURES}
                rows.append(about | {"part": part} | both[0][part] | scaled)
    order = {run.called(candidate.name): place for place, (run, candidate) in enumerate(coders)}
    rows.sort(key=lambda row: order[row["name"]])
    return {"clean_loss": _by_part(clean_P / tokens_P), "rows": rows}


class _OnParts:
    """ŷ = coder(a x) / b on the parts of conversations: L0, FVU and the loss with it in place.

    With a the mean of ‖x‖ where the coder was trained over that where it is used now, and b the
    same of its target, this rescales activations "to have same norm in expectation" (Lieberum et
    al. 2024, C.4, fig. 23). An autoencoder has a = b. With a = b = 1 it is the coder itself.
    """

    def __init__(self, lm: "LM", subject: Subject, a: float = 1.0, b: float = 1.0) -> None:
        self.lm, self.subject, self.a, self.b = lm, subject, a, b
        self._fidelity = {part: Fidelity(subject) for part in PARTS}
        self._loss_P = torch.zeros(len(PARTS), dtype=torch.float64, device=subject.device)

    def update(self, acts: Mapping[str, Tensor], talk: Conversations) -> None:
        """Add a batch; the coder takes the place of every measured token, in both parts alike."""
        for part, mask_NS in zip(PARTS, talk.masks_PNS, strict=True):
            if mask_NS.any():  # a batch may be silent
                self._fidelity[part].update(self.run_coder(acts, mask_NS))
        model = self.lm.model
        read, write = (language.resolve(model, s) for s in (self.subject.site, self.subject.target))
        with language.splice(model, read, write, self.replace, ~talk.measured_NS):
            self._loss_P += _loss_P(self.lm, talk)

    def run_coder(self, acts: Mapping[str, Tensor], measured_NS: Tensor) -> CoderOutput:
        """The code of a x and the reconstruction of b y: their L0 and FVU are those of ŷ and y."""
        dtype = self.subject.coder.W_enc.dtype
        x_NSD = acts[self.subject.site].to(dtype) * self.a
        y_NSE = acts[self.subject.target].to(dtype) * self.b
        return run_coder(self.subject.coder, x_NSD, y_NSE, measured_NS)

    def replace(self, x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        """ŷ [N, S, E], as `lm.splice` asks for it."""
        coder = self.subject.coder
        return replacement_by(coder)(x_NSD.to(coder.W_enc.dtype) * self.a, y_NSE) / self.b

    def result(self, clean_P: Tensor, tokens_P: Tensor) -> dict[str, Figures]:
        """By part; from the clean losses and numbers of tokens of all processes."""
        loss_P = self.subject.mesh.data.all_reduce(self._loss_P)
        delta = _by_part((loss_P - clean_P) / tokens_P)
        found = {part: sums.result() for part, sums in self._fidelity.items()}
        return {
            part: {key: found[part][key] for key in ("tokens", "l0", "fvu")}
            | {"delta_loss": delta[part]}
            for part in PARTS
        }


class MeanNorm:
    """The mean of ‖x‖ over tokens, at each of some sites."""

    def __init__(self, sites: Iterable[str], device: torch.device) -> None:
        self._norms = {s: torch.zeros((), dtype=torch.float64, device=device) for s in sites}
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, acts: Mapping[str, Tensor], measured_NS: Tensor) -> None:
        """Add the measured tokens of some sequences [N, S, D]."""
        self._tokens += measured_NS.sum().to(self._tokens.device)
        for site, sum_of_norms in self._norms.items():
            acts_BD = acts[site][measured_NS].to(sum_of_norms.device).double()
            sum_of_norms += acts_BD.norm(dim=1).sum()

    def result(self, mesh: Mesh) -> dict[str, float]:
        """By site; called by all processes together."""
        tokens = mesh.data.all_reduce(self._tokens)
        return {s: float(mesh.data.all_reduce(norms) / tokens) for s, norms in self._norms.items()}


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
        mean_norm, data = MeanNorm(sites, device), mesh.data
        own = HeldOutPart(data.index, data.size, config.sequences, config.batch_sequences)
        for batch in run.source.held_out(sites, own):
            mean_norm.update(batch.acts, batch.trainable)
        norms |= {(run.on, site): norm for site, norm in mean_norm.result(mesh).items()}
    return norms


def _capture(lm: "LM", sites: Iterable[str]) -> "language.Capture":
    return language.Capture(lm.model, [language.resolve(lm.model, site) for site in sorted(sites)])


@torch.no_grad()
def _loss_P(lm: "LM", talk: Conversations) -> Tensor:
    """A token counts to the part it is in, wherever it is predicted from."""
    loss_NS = language.next_token_loss_NS(lm.model, talk.ids_NS).double()
    return loss_NS.where(talk.masks_PNS[..., 1:], 0.0).sum((1, 2))


def _by_part(values_P: Tensor) -> dict[str, float]:
    return dict(zip(PARTS, values_P.tolist(), strict=True))


def _about(run: Trained, subject: Subject, a: float, b: float) -> dict[str, Any]:
    config = subject.coder.config
    return {
        "name": run.called(subject.name),
        "trained_on": run.on,
        "run": run.folder.name,
        "rung": subject.name,
        "kind": config.kind,
        "form": config.form.value,
        "site": subject.site,
        "target": subject.target,
        "num_latents": config.num_latents,
        "k": config.aim.get("k"),
        "rescaled_by": {"input": a, "target": b},
    }


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
