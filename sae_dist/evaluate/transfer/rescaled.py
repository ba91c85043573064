"""A coder between activations that are made as long as those it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sae_dist.evaluate.lm_loss import Spliced, replacement_by
from sae_dist.evaluate.output import CoderOutput, run_coder


@dataclass(frozen=True, slots=True)
class Rescaled:
    """ŷ = coder(a x) / b.

    With a the mean of ‖x‖ where the coder was trained over that where it is used now, and b the
    same of its target, this rescales activations "to have same norm in expectation" (Lieberum et
    al. 2024, C.4, fig. 23). An autoencoder has a = b. With a = b = 1 it is the coder itself.
    """

    spliced: Spliced
    a: float = 1.0
    b: float = 1.0

    def run_coder(self, acts: Mapping[str, Tensor], measured_NS: Tensor) -> CoderOutput:
        """The code of a x and the reconstruction of b y: their L0 and FVU are those of ŷ and y.

        Args:
            acts: by site, [N, S, D].
            measured_NS: the tokens that are seen.
        """
        dtype = self.spliced.coder.W_enc.dtype
        x_NSD, y_NSE = (acts[site.name] for site in (self.spliced.read, self.spliced.write))
        x_NSD, y_NSE = x_NSD.to(dtype) * self.a, y_NSE.to(dtype) * self.b
        return run_coder(self.spliced.coder, x_NSD, y_NSE, measured_NS)

    def replace(self, x_NSD: Tensor, y_NSE: Tensor) -> Tensor:
        """ŷ [N, S, E], as `lm.splice` asks for it."""
        coder = self.spliced.coder
        return replacement_by(coder)(x_NSD.to(coder.W_enc.dtype) * self.a, y_NSE) / self.b
