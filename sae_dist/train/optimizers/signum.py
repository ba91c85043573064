"""Signum: the sign of the momentum, with one moment of memory."""

import torch
from torch import Tensor

from sae_dist.train.optimizers.optimizer import Optimizer, row_blocks, scale_to_unit_norm


class Signum(Optimizer):
    """m ← β m + (1 - β) g, w ← w - lr sign(m) (Bernstein et al. 2018, algorithm 2).

    With `momentum` = 0 nothing is remembered, and where gradients are sparse only their rows are
    visited, as the others' sign is 0.
    """

    def _first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(parameter)} if self.config.momentum else {}

    def _update(
        self, name: str, parameter: Tensor, number: int, lr: float, grad_scale: Tensor
    ) -> None:
        rows_R, direction_RD = self.projected(name, parameter, grad_scale)
        if (momentum := self.state[name].get("momentum")) is not None:
            direction_RD = momentum.lerp_(direction_RD, 1 - self.config.momentum)
        W_RD = parameter if rows_R is None else parameter[rows_R]
        for w_rD, direction_rD in row_blocks(W_RD, direction_RD):
            w_rD.sub_(direction_rD.sign(), alpha=lr)
            if self.has_unit_rows(name):
                scale_to_unit_norm(w_rD)
        if rows_R is not None:
            parameter[rows_R] = W_RD
