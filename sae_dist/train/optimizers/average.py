"""An exponential average of a coder's weights."""

import torch
from torch import Tensor

from sae_dist.coders import Coder, Form
from sae_dist.train.optimizers.optimizer import scale_to_unit_norm


class WeightAverage:
    """The mean of a coder's weights after each step, of which step n - i weighs decayⁱ.

    Gao et al. 2024's code has it: an exponential moving average, corrected for that it begins with
    zeros. Here the weight of each step is corrected instead, which is the same at every step.

    Attributes:
        weights: the mean, by parameter.
    """

    def __init__(self, coder: Coder, decay: float) -> None:
        self.coder, self.decay = coder, decay
        self.weights = {name: torch.zeros_like(p) for name, p in coder.named_parameters()}

    @torch.no_grad()
    def update(self, number: Tensor, skip: Tensor) -> None:
        """Add the weights after step `number`, from 1, unless it is to be skipped (both 0-dim)."""
        weight = (1 - self.decay) / (1 - self.decay ** number.double())
        weight = weight.masked_fill(skip, 0.0)
        for name, parameter in self.coder.named_parameters():
            self.weights[name].lerp_(parameter, weight.to(parameter.dtype))

    @torch.no_grad()
    def rows_at_unit_norm(self) -> dict[str, Tensor]:
        """The mean, with the decoder's rows at unit norm where the coder's are."""
        weights, config = dict(self.weights), self.coder.config
        num_sites = config.num_sites if config.form is Form.crosscoder else 1
        for name in weights if config.unit_norm_decoder else ():
            if name.endswith("W_dec"):
                weights[name] = weights[name].clone()
                scale_to_unit_norm(weights[name], num_sites)
        return weights
