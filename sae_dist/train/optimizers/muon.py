"""Muon, on matrices of which every process holds some rows."""

import math

import torch
from torch import Tensor

from sae_dist.kernels import AdamStep
from sae_dist.train.optimizers.adam import adam_update
from sae_dist.train.optimizers.optimizer import (
    OF_ROWS,
    Optimizer,
    row_blocks,
    scale_to_unit_norm,
)

_QUINTIC = 3.4445, -4.7750, 2.0315
_RATE = 0.2
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # of the vectors' Adam: torch's defaults


class Muon(Optimizer):
    """M ← β M + (1 - β) G, W ← (1 - lr γ) W - 0.2 √max(F, D) lr · orth(β M + (1 - β) G).

    Jordan et al. 2024, with the rate of Liu et al. 2025 (eq. 4); γ is `weight_decay`. Vectors take
    Adam's step, of the same rate.
    """

    def _first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        if parameter.dim() == 2:
            return {"momentum": torch.zeros_like(parameter)}
        return {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}

    def _update(
        self, name: str, parameter: Tensor, number: int, lr: float, grad_scale: Tensor
    ) -> None:
        if parameter.dim() == 1:
            adam = AdamStep(
                step=number,
                lr=lr,
                beta1=_BETA1,
                beta2=_BETA2,
                eps=_EPS,
                grad_scale=grad_scale,
                unit_norm=False,
            )
            return adam_update(parameter, self.state[name], adam)
        config, momentum_FD = self.config, self.state[name]["momentum"]
        _, grad_FD = self.projected(name, parameter, grad_scale)
        momentum_FD.lerp_(grad_FD, 1 - config.momentum)
        direction_FD = grad_FD.lerp_(momentum_FD, config.momentum)  # Nesterov's
        gram_DD, num_rows = direction_FD.T @ direction_FD, len(parameter)
        if name in OF_ROWS:  # of which others hold more
            gram_DD = self.coder.collectives.sum_latents(gram_DD)
            num_rows = self.coder.config.num_latents
        right_DD = orthogonalizer(gram_DD, config.newton_schulz_steps)
        rate = _RATE * math.sqrt(max(num_rows, parameter.shape[1])) * lr
        for w_rD, direction_rD in row_blocks(parameter, direction_FD):
            w_rD.mul_(1 - lr * config.weight_decay).addmm_(direction_rD, right_DD, alpha=-rate)
            if self.has_unit_rows(name):
                scale_to_unit_norm(w_rD)


def orthogonalizer(gram_DD: Tensor, num_steps: int) -> Tensor:
    """The Q [D, D] with G Q = orth(G), from GᵀG alone: G's singular values become about 1.

    Newton and Schulz's quintic iteration X ← X (a + b A + c A²) with A = XᵀX, from X = G / ‖G‖
    (Jordan et al. 2024), only ever multiplies X from the right by polynomials of A. Their product
    is Q, and A ← P A P follows its own way: so the rows of G, however they are spread over
    processes, are needed for GᵀG and at the end, and one sum of D × D numbers crosses.
    """
    a, b, c = _QUINTIC
    norm = gram_DD.trace().sqrt().clamp_min(torch.finfo(gram_DD.dtype).tiny ** 0.5)
    A_DD, Q_DD = gram_DD / norm**2, torch.eye(*gram_DD.shape).to(gram_DD) / norm
    for _ in range(num_steps):
        P_DD = torch.addmm(b * A_DD, A_DD, A_DD, alpha=c)
        P_DD.diagonal().add_(a)
        A_DD, Q_DD = P_DD @ A_DD @ P_DD, Q_DD @ P_DD
    return Q_DD
