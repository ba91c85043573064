"""Muon, on matrices of which every process holds some rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sae_dist.common.settings import setting
from sae_dist.train.optimizers.adam import adam_update
from sae_dist.train.optimizers.config import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.parallel.cost import UpdateCost
    from sae_dist.train.optimizers.optimizer import Step

_QUINTIC = 3.4445, -4.7750, 2.0315
_RATE = 0.2
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # of the vectors' Adam: torch's defaults


@dataclass(kw_only=True)
class Muon(OptimConfig):
    """Muon (Jordan et al. 2024): a matrix moves along its momentum, made orthogonal.

    M ← β M + (1 - β) G, W ← (1 - lr γ) W - 0.2 √max(F, D) lr · orth(β M + (1 - β) G), with the rate
    of Liu et al. 2025 (eq. 4), where β is `momentum`, γ `weight_decay`, and `newton_schulz_steps`
    of the quintic iteration are orth. Vectors take Adam's step, of the same rate, with β 0.9 and
    0.999. Defaults and rate are sparsify's for its transcoders (Paulo et al. 2025), whose momentum
    is Nesterov's, as here.
    """

    name: str = field(default="muon", init=False)
    lr: float = setting(2e-3, above=0)
    momentum: float = setting(0.95, min=0, below=1)
    newton_schulz_steps: int = setting(5, min=1)
    weight_decay: float = setting(0.1, min=0)

    def first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        kept = ("momentum",) if parameter.dim() == 2 else ("exp_avg", "exp_avg_sq")
        return {key: parameter.new_zeros(parameter.shape) for key in kept}

    def update(self, step: Step) -> None:
        if step.parameter.dim() == 1:
            return adam_update(step, _BETA1, _BETA2, _EPS)
        rows_R, grad_FD = step.projected_gradient()
        momentum_FD = step.follow("momentum", grad_FD, 1 - self.momentum)
        direction_FD = grad_FD.lerp_(momentum_FD, self.momentum)  # Nesterov's
        gram_DD, num_rows = direction_FD.T @ direction_FD, len(direction_FD)
        if step.name in ("W_enc", "W_dec"):  # of whose rows others hold more
            gram_DD = step.coder.collectives.sum_latents(gram_DD)
            num_rows = step.coder.config.num_latents
        right_DD = orthogonalizer(gram_DD, self.newton_schulz_steps)
        right_DD *= _RATE * math.sqrt(max(num_rows, len(gram_DD))) * step.lr
        for w_rD, direction_rD in step.blocks(rows_R, direction_FD):
            w_rD.mul_(1 - step.lr * self.weight_decay)
            w_rD.addmm_(direction_rD, right_DD, alpha=-1)

    def cost(self, num_latents: int, d_in: int, d_out: int) -> UpdateCost:
        """A Gram matrix each, the update, and four products of D × D a step."""
        widths = d_in, d_out
        flops = sum(
            4.0 * num_latents * D**2 + 8.0 * self.newton_schulz_steps * D**3 for D in widths
        )
        sums = tuple(D**2 for D in widths)
        return replace(super().cost(num_latents, d_in, d_out), sums=sums, flops=flops)


def orthogonalizer(gram_DD: Tensor, num_steps: int) -> Tensor:
    """The Q [D, D] with G Q = orth(G), from GᵀG alone: G's singular values become about 1.

    Newton and Schulz's quintic iteration X ← X (a + b A + c A²) with A = XᵀX, from X = G / ‖G‖
    (Jordan et al. 2024), only ever multiplies X from the right by polynomials of A. Their product
    is Q, and A ← P A P follows its own way: so the rows of G, however they are spread over
    processes, are needed for GᵀG and at the end, and one sum of D × D numbers crosses.
    """
    import torch  # only here, as settings are read without it

    a, b, c = _QUINTIC
    norm = gram_DD.trace().sqrt().clamp_min(torch.finfo(gram_DD.dtype).tiny ** 0.5)
    A_DD, Q_DD = gram_DD / norm**2, torch.eye(*gram_DD.shape).to(gram_DD) / norm
    for _ in range(num_steps):
        P_DD = torch.addmm(b * A_DD, A_DD, A_DD, alpha=c)
        P_DD.diagonal().add_(a)
        A_DD, Q_DD = P_DD @ A_DD @ P_DD, Q_DD @ P_DD
    return Q_DD
