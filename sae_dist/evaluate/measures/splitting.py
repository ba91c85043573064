"""Into how many latents of a larger coder each of a smaller one's splits."""

import torch

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, PairMeasure
from sae_dist.evaluate.measures.novelty import NAMES
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.topics import PAIRS


def _count(key: str, heading: str, definition: str) -> Figure:
    return Figure(f"splitting/{key}", heading, definition, write=Write.COUNT)


class Splitting(PairMeasure):
    """How many latents of the larger coder stand below each of the smaller one's.

    A latent of the larger coder stands below that of the smaller one with which its decoder cosine
    is largest, if that is at least τ. One alone is the same latent again; several are what it split
    into (Bricken et al. 2023). Of a latent with two directions the cosine's sign is left out.
    """

    name = "splitting"
    settings = ("pairs.tau",)
    topic = PAIRS
    group = "Latents that split"
    caption = "Of the smaller coder’s latents, by how many of the larger one’s stand below them."
    figures = (
        *NAMES,
        _count("none", "none", "latents of the smaller below which none of the larger stands"),
        _count("one", "one", "one: the same latent again"),
        _count("several", "several", "two or more: it has split"),
        _count("most", "the most", "below one latent"),
        _count("placed", "placed", "latents of the larger coder that stand below one"),
        Figure("splitting/counts", "", "entry n: below how many latents n stand"),
    )
    plots = (
        Plot(
            "splitting",
            Mark.LINE,
            "Into how many a latent splits",
            "Of the latents of the smaller coder how many have so many of the larger one’s below "
            "them: those whose nearest it is, with a cosine of at least τ.",
            x=Axis("latents of the larger coder below it", log=False, zero=True),
            y=Axis("latents of the smaller coder", "splitting/counts", log=False, zero=True),
            panel="family_and_place",
            rung="larger",
        ),
    )

    def update(self, small: CoderOutput, large: CoderOutput) -> None:
        """Nothing: decoders are compared, whatever fires."""

    def conclude(self) -> Figures:
        """The counts, over all slices of both coders."""
        near, gather = self.pair.similarity, self.mesh.latent.all_gather
        cosine_G, latent_G = gather(near.cosine_G), gather(near.latent_G)
        parents_N = latent_G[cosine_G >= self.pair.tau]
        below_F = torch.bincount(parents_N, minlength=self.pair.small.coder.config.num_latents)
        return {
            "splitting": {
                "none": int((below_F == 0).sum()),
                "one": int((below_F == 1).sum()),
                "several": int((below_F > 1).sum()),
                "most": int(below_F.max()),
                "placed": len(parents_N),
                "counts": torch.bincount(below_F).tolist(),
            }
        }
