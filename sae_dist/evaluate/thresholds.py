"""At what pre-activation latents begin to fire."""

from typing import Any

from sae_dist.coders import Coder, FiresBy
from sae_dist.evaluate.summary import histogram, summary
from sae_dist.parallel import Mesh

_NUM_BINS = 40


def threshold_distribution(coder: Coder, mesh: Mesh) -> dict[str, Any]:
    """A threshold a latent, over raw activations: mean, quantiles, and a histogram.

    One of all latents stands alone; without any there is nothing.
    """
    weights, fires_by = coder.state_dict(), coder.config.fires_by
    if fires_by is FiresBy.threshold:
        return {"threshold": float(weights["threshold"])}
    if fires_by is not FiresBy.thresholds:
        return {}
    threshold_F = mesh.latent.all_gather(weights["threshold"]).double()
    return {"thresholds": summary(threshold_F) | histogram(threshold_F, _NUM_BINS)}
