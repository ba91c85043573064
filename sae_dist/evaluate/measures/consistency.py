"""Whether latents fire now and then or again and again: two heuristics of one name."""

import torch

from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import summary
from sae_dist.evaluate.topics import LATENTS, TRANSCODERS

_CAPTION = (
    "Over the latents of each coder: their median (dot), mean (diamond), middle half (thick) and "
    "middle four fifths (thin line). The paper’s caption and its code define two different "
    "figures; both are shown. Sequences are those in which the latent fires."
)


class ConsistentActivation(Measure):
    """The consistent activation heuristic, by its caption and by its code.

    Of both the mean and quantiles over the latents that fired. Where activations have a sign, it is
    their size that is added up.
    """

    name = "consistency"
    version = 2
    topic = LATENTS
    group = "Latents"
    figures = (
        Figure(
            "consistent_activation_caption/mean",
            "consistency, caption",
            "Σ |activation| / tokens, mean over latents",
            source=f"{TRANSCODERS}, fig. 3, as its caption says",
        ),
        Figure(
            "consistent_activation_code/mean",
            "consistency, code",
            "active tokens / sequences with one, mean over latents",
            source=f"{TRANSCODERS}, fig. 3, as its code does",
        ),
    )
    plots = tuple(
        Plot(
            f"consistency-{which}",
            Mark.SPANS,
            f"Consistent activation, as in its {which}",
            _CAPTION,
            source=f"{TRANSCODERS}, fig. 3",
            x=Axis(label),
            y=Axis(label, f"consistent_activation_{which}"),
        )
        for which, label in (
            ("caption", "Σ |activation| / tokens"),
            ("code", "active tokens / sequence"),
        )
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        held = len(subject.coder.latents)
        self._tokens, self._size_F = self.zeros(), self.zeros(held)
        self._fired_F, self._sequences_F = self.zeros(2, held, dtype=torch.int64)

    def update(self, seen: CoderOutput) -> None:
        """Add the tokens of whole sequences."""
        code, acts_N = seen.active
        num_latents = code.num_latents
        self._tokens += len(seen)
        self._size_F.index_add_(0, code.latents_N, acts_N.double().abs())
        self._fired_F += code.count_by_latent()
        together_N = seen.sequence_B[code.rows_N] * num_latents + code.latents_N
        latents_N = together_N.unique() % num_latents
        self._sequences_F += torch.bincount(latents_N, minlength=num_latents)

    def conclude(self) -> Figures:
        """`consistent_activation_caption` and `consistent_activation_code`."""
        size_F, fired_F, sequences_F = self.whole(self._size_F, self._fired_F, self._sequences_F)
        alive_F = fired_F > 0
        return {
            "consistent_activation_caption": summary(size_F[alive_F] / self._tokens),
            "consistent_activation_code": summary(fired_F[alive_F] / sequences_F[alive_F]),
        }
