"""What a coder costs the language model: its predictions with the reconstruction spliced in."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from sae_dist.coders import CrossLayerTranscoder, Form
from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.common.joint import is_joint, is_of_several_models, parts_of
from sae_dist.evaluate.lm_batch import Changed, LMBatch, replacement_by, replacements_by
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.measures.fidelity import L0_AXIS, WIDTH_AXIS
from sae_dist.evaluate.measures.position import POSITION_AXIS
from sae_dist.evaluate.registry import Needs
from sae_dist.evaluate.summary import ratio, ratios
from sae_dist.evaluate.topics import FIDELITY, GEMMA_SCOPE, POSITION, SAEBENCH, TRANSCODERS

_NATS = "nats a token"
_DELTA = Axis("Δ loss (nats a token)", "delta_loss")


class LMLoss(Measure):
    """Cross entropies, clean, with zeros, and with the coder's reconstruction.

    Means are over predicted tokens that are not special; of a crosscoder they are also over its
    sites, in whose places its reconstructions from the clean activations are put one by one. A
    cross-layer transcoder replaces all its targets at once, and reads what it has changed. Where
    zeros cost nothing, `loss_recovered` and `kl_score` are None; so is `ce_increase_percent` of a
    loss of 0, and all where no token is predicted.
    """

    name = "lm_loss"
    needs = Needs.LM
    sequences = "lm_sequences"
    topic = FIDELITY
    group = "In the language model"
    figures = (
        Figure(
            "delta_loss",
            "Δ loss",
            "CE(spliced) − CE(clean)",
            unit=_NATS,
            source=f"{GEMMA_SCOPE}, 4.1",
            is_main=True,
        ),
        Figure(
            "ce_increase_percent",
            "CE +%",
            "100 · Δ loss / CE(clean)",
            unit="per cent",
            source=f"{TRANSCODERS}, table 1",
            is_main=True,
        ),
        Figure(
            "loss_recovered",
            "recovered",
            "loss recovered, (CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))",
            is_main=True,
        ),
        Figure("clean_loss", "CE clean", "CE of the untouched language model", unit=_NATS),
        Figure("zero_ablation_loss", "CE zero", "CE with the site set to zero", unit=_NATS),
        Figure("kl", "KL", "KL(clean ‖ spliced)", unit=_NATS),
        Figure("kl_score", "KL score", "(KL(zero) − KL) / KL(zero)", source=SAEBENCH),
        Figure(
            "delta_loss_by_position",
            "",
            "entry s is of predicting token s + 1",
            unit="nats",
            source=f"{GEMMA_SCOPE}, fig. 15",
        ),
        Figure("delta_loss_by_site", "", "of a crosscoder, Δ loss of each site", unit="nats"),
    )
    plots = (
        Plot(
            "delta-loss-l0",
            Mark.POINTS,
            "Delta loss against L0",
            "CE(spliced) − CE(clean): how much the language model’s cross-entropy rises "
            "when the coder’s output takes the place of what it reconstructs; mean over predicted "
            "non-special tokens. Down and left is better; lines join coders of one width and kind.",
            source=f"{GEMMA_SCOPE}, figs. 2 and 4",
            x=L0_AXIS,
            y=_DELTA,
            panel="place",
            join=True,
        ),
        Plot(
            "delta-loss-width",
            Mark.POINTS,
            "Delta loss against width",
            "The rise of the language model’s cross-entropy by number of latents.",
            x=WIDTH_AXIS,
            y=_DELTA,
            panel="place",
            join=True,
        ),
        Plot(
            "delta-loss-by-position",
            Mark.LINE,
            "Delta loss by position",
            "CE(spliced) − CE(clean) of predicting the token that follows each position. "
            "With few sequences this is noisy.",
            source=f"{GEMMA_SCOPE}, fig. 15",
            x=POSITION_AXIS,
            y=Axis("Δ loss (nats a token)", "delta_loss_by_position", log=False),
            panel="family_and_place",
            by_rung=True,
            topic=POSITION,
        ),
    )

    @classmethod
    def measures_coder(cls, site: str, form: Form) -> bool:
        """Of all sites of one language model."""
        return not is_of_several_models(site)

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        length = subject.num_positions - 1
        self._tokens_S, self._clean_S, self._spliced_S, self._zero_S = self.zeros(4, length)
        self._kl, self._zero_kl = self.zeros(2)
        is_crosscoder = subject.coder.config.form is Form.crosscoder
        self._changes_L = self.zeros(len(parts_of(subject.target)) if is_crosscoder else 1)
        self._replacement = replacement_by(subject.coder)

    def update(self, seen: LMBatch) -> None:
        """Add a batch of sequences: a forward pass of its own for each site, beside those all
        coders share.
        """
        for number, (target, spliced) in enumerate(self._spliced(seen)):
            zero = seen.zero(target)
            self._tokens_S += seen.predicted_NS.sum(0)
            self._clean_S += seen.clean_S
            self._spliced_S += spliced.loss_S
            self._zero_S += zero.loss_S
            self._kl += spliced.kl
            self._zero_kl += zero.kl
            self._changes_L[number] += (spliced.loss_S - seen.clean_S).sum()

    def _spliced(self, seen: LMBatch) -> Iterator[tuple[str, Changed]]:
        """Each site with what its splice does."""
        site, target = self.subject.site, self.subject.target
        coder = self.subject.coder
        if isinstance(coder, CrossLayerTranscoder):
            yield target, seen.spliced_all(site, target, replacements_by(coder))
            return
        if not is_joint(site):
            yield target, seen.spliced(site, target, self._replacement)
            return
        x_NSD = seen.clean_at(site)
        sites = parts_of(site)
        made = self._replacement(x_NSD, x_NSD).chunk(len(sites), -1)
        for own, made_NSd in zip(sites, made, strict=True):
            yield own, seen.spliced(own, own, partial(_given, made_NSd))

    def conclude(self) -> Figures:
        """Losses and divergences, and how they compare."""
        tokens_S, clean_S, spliced_S, kl = self._tokens_S, self._clean_S, self._spliced_S, self._kl
        sums = tokens_S, clean_S, spliced_S, self._zero_S
        tokens, clean, spliced, zero = (v.sum() for v in sums)
        by_site = ratios(self._changes_L, tokens / len(self._changes_L))
        return {
            **({"delta_loss_by_site": by_site} if len(by_site) > 1 else {}),
            "clean_loss": ratio(clean, tokens),
            "delta_loss": ratio(spliced - clean, tokens),
            "ce_increase_percent": ratio(100 * (spliced - clean), clean),
            "zero_ablation_loss": ratio(zero, tokens),
            "loss_recovered": ratio(zero - spliced, zero - clean),
            "kl": ratio(kl, tokens),
            "kl_score": ratio(self._zero_kl - kl, self._zero_kl),
            "delta_loss_by_position": ratios(spliced_S - clean_S, tokens_S),
        }


def _given(made_NSE: Tensor, x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
    """A replacement that is known already."""
    return made_NSE
