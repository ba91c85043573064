"""What a coder is, and at what pre-activation its latents begin to fire."""

from typing import Any

from sae_dist.coders import FiresBy, Form
from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.measure import Figures, Measure
from sae_dist.evaluate.registry import Needs
from sae_dist.evaluate.summary import histogram, summary
from sae_dist.evaluate.topics import LATENTS

_NUM_BINS = 40


class Description(Measure):
    """Kind, form, sites and widths, and the thresholds, over raw activations.

    A threshold a latent has a mean, quantiles, and a histogram; one of all latents stands alone.
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

    @classmethod
    def measures_coder(cls, site: str, form: Form) -> bool:
        """All."""
        return True

    def conclude(self) -> Figures:
        """The description and, flat beside it, the thresholds."""
        coder, config = self.subject.coder, self.subject.coder.config
        return {
            "kind": config.kind,
            "form": config.form.value,
            "site": self.subject.site,
            "target": self.subject.target,
            "num_latents": config.num_latents,
            "k": None,
            "target_l0": None,
            **config.aim,
            "d_in": coder.d_in,
            "d_out": coder.d_out,
            **self._thresholds(),
        }

    def _thresholds(self) -> dict[str, Any]:
        coder = self.subject.coder
        weights, fires_by = coder.state_dict(), coder.config.fires_by
        if coder.config.form is Form.cross_layer_transcoder:  # each layer's are of its own scale
            return {}
        if fires_by is FiresBy.threshold:
            return {"threshold": float(weights["threshold"])}
        if fires_by is not FiresBy.thresholds:
            return {}
        threshold_F = self.whole(weights["threshold"])[0].double()
        return {"thresholds": summary(threshold_F) | histogram(threshold_F, _NUM_BINS)}
