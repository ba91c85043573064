"""What a coder is, and at what pre-activation its latents begin to fire."""

from typing import Any

from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.measure import Figures, Measure, Needs
from sae_dist.evaluate.summary import histogram, summary
from sae_dist.evaluate.topics import LATENTS

_NUM_BINS = 40


class Description(Measure):
    """Kind, form, sites and widths, and the thresholds, over raw activations.

    A JumpReLU's thresholds have a mean, quantiles, and a histogram; a BatchTopK's one threshold
    stands alone; a TopK has none.
    """

    name = "coder"
    needs = Needs.WEIGHTS
    topic = LATENTS
    group = "Latents"
    figures = (
        Figure(
            "threshold",
            "threshold",
            "above which a BatchTopK’s latents are active",
            unit="raw activation",
        ),
        Figure(
            "thresholds/mean", "threshold, mean", "of a JumpReLU’s latents", unit="raw activation"
        ),
    )
    plots = (
        Plot(
            "thresholds",
            Mark.STEPS,
            "Thresholds",
            "Above which activation each latent of a JumpReLU counts as active, as per "
            "cent of its latents in each bin.",
            x=Axis("threshold (units of the activations)", "thresholds/edges"),
            y=Axis("share of latents (%)", "thresholds/counts", zero=True),
            panel="family_and_place",
            by_rung=True,
        ),
    )

    def result(self) -> Figures:
        """The description and, flat beside it, the thresholds."""
        coder, config = self.subject.coder, self.subject.coder.config
        return {
            "kind": config.kind.value,
            "form": config.form.value,
            "site": self.subject.site,
            "target": self.subject.target,
            "num_latents": config.num_latents,
            "k": None if coder.threshold is not None else config.k,
            "target_l0": config.target_l0 if coder.threshold is not None else None,
            "d_in": coder.d_in,
            "d_out": coder.d_out,
            **self._thresholds(),
        }

    def _thresholds(self) -> dict[str, Any]:
        coder = self.subject.coder
        if coder.threshold is None:
            single = coder.inference_threshold
            return {} if single is None else {"threshold": float(single)}
        threshold_F = self.subject.mesh.latent.all_gather(coder.threshold.detach()).double()
        return {"thresholds": summary(threshold_F) | histogram(threshold_F, _NUM_BINS)}
