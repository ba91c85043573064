"""How far what a search multiplies can be from what is exact."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """|z - ẑ| ≤ ‖x̂‖ ‖w - ŵ‖ + |b - b̂| + ‖x - x̂‖ ‖w‖ + u |ẑ|, of some rows and groups of latents.

    Attributes:
        x_norm_b, x_error_b: ‖x‖ and ‖x - x̂‖ of each row, whose sum ‖x̂‖ does not exceed.
        W_error_g, W_norm_g, b_error_g: the largest ‖w - ŵ‖, ‖w‖ and |b - b̂| of each group, with
            what sums in float32 can lose.
        rounding: u.
    """

    x_norm_b: Tensor
    x_error_b: Tensor
    W_error_g: Tensor
    W_norm_g: Tensor
    b_error_g: Tensor
    rounding: float

    def of_groups(self) -> Tensor:
        """All but u |ẑ| [b, g]."""
        x_error_b1 = self.x_error_b[:, None]
        x_norm_b1 = self.x_norm_b[:, None] + x_error_b1
        return torch.addcmul(x_norm_b1 * self.W_error_g + self.b_error_g, x_error_b1, self.W_norm_g)
