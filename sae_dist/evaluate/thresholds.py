"""At what pre-activation latents begin to fire."""

from typing import Any

from sae_dist.coders import Coder
from sae_dist.evaluate.summary import histogram, summary
from sae_dist.parallel import Mesh

_NUM_BINS = 40


def threshold_distribution(coder: Coder, mesh: Mesh) -> dict[str, Any]:
    """A JumpReLU's thresholds, over raw activations: mean, quantiles, and a histogram.

    A BatchTopK's one threshold stands alone; a TopK has none.
    """
    if coder.threshold is None:
        single = coder.inference_threshold
        return {} if single is None else {"threshold": float(single)}
    threshold_F = mesh.latent.all_gather(coder.threshold.detach()).double()
    return {"thresholds": summary(threshold_F) | histogram(threshold_F, _NUM_BINS)}
