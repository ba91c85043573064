"""How often each latent fires."""

import torch

from sae_dist.coders import FREQUENCY_EDGES, frequency_histogram
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.measures.fidelity import WIDTH_AXIS
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.topics import GEMMA_SCOPE, LATENTS, SCALING

_DENSE = {"above_1_percent": 0.01, "above_10_percent": 0.1}


class FiringFrequency(Measure):
    """The share of tokens on which each latent is active."""

    name = "frequency"
    topic = LATENTS
    group = "Latents"
    figures = (
        Figure(
            "dead_share",
            "dead",
            "share of latents that never fired; SAEBench’s frac_alive is 1 less that",
            write=Write.PERCENT,
            is_main=True,
        ),
        Figure(
            "share_above_1_percent",
            "> 1 %",
            "share of latents on over 1 % of tokens",
            write=Write.PERCENT,
        ),
        Figure(
            "share_above_10_percent",
            "> 10 %",
            "share of latents on over 10 % of tokens",
            write=Write.PERCENT,
        ),
    )
    plots = (
        Plot(
            "frequency",
            Mark.STEPS,
            "Firing frequency",
            "On which share of non-special tokens a latent is active (log₁₀), as per cent "
            "of the coder’s latents in each bin; those that never fired are counted below the "
            "panel.",
            source=f"{GEMMA_SCOPE}, fig. 5",
            x=Axis("log₁₀ firing frequency", "firing_frequency/edges_log10"),
            y=Axis("share of latents (%)", "firing_frequency/counts", zero=True),
            rest="firing_frequency/never",
            panel="family_and_place",
            note="firing_frequency/never",
            note_label="Never fired",
            note_write=Write.COUNT,
            by_rung=True,
        ),
        Plot(
            "dead",
            Mark.POINTS,
            "Dead latents by width",
            "Share of latents that never fired on the held-out tokens; lines join coders "
            "of one kind.",
            x=WIDTH_AXIS,
            y=Axis("dead latents (%)", "dead_share", log=False, zero=True, scale=100),
            panel="place",
            join=True,
            topic=SCALING,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._fired_F = self.zeros(len(subject.coder.latents), dtype=torch.int64)
        self._tokens = self.zeros()

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        self._fired_F += seen.active[0].count_by_latent()
        self._tokens += len(seen)

    def conclude(self) -> Figures:
        """Those shares, and `firing_frequency`: the histogram of log₁₀ frequencies over all latents
        that fired, and how many never did.
        """
        fired_F, tokens, latent = self._fired_F, int(self._tokens), self.mesh.latent
        above = torch.stack([(fired_F > share * tokens).sum() for share in _DENSE.values()])
        dense = latent.all_reduce(above).tolist()
        never, *counts = latent.all_reduce(frequency_histogram(fired_F, tokens)).tolist()
        num_latents = never + sum(counts)
        return {
            "dead_share": never / num_latents,
            **{f"share_{n}": c / num_latents for n, c in zip(_DENSE, dense, strict=True)},
            "firing_frequency": {"edges_log10": FREQUENCY_EDGES, "never": never, "counts": counts},
        }
