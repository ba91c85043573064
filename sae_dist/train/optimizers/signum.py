"""Signum: the sign of the momentum, with one moment of memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist.common.settings import setting
from sae_dist.train.optimizers.config import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.train.optimizers.optimizer import Step


@dataclass(kw_only=True)
class Signum(OptimConfig):
    """Signum: m ← β m + (1 - β) g, w ← w - lr sign(m) (Bernstein et al. 2018, algorithm 2).

    β is `momentum`. With 0 nothing is remembered, and where gradients are sparse only their rows
    are visited, as the others' sign is 0. `lr` is Adam's 2e-4 / √(F / 2¹⁴), as no published coder
    was trained with it: sparsify's signum is schedule-free, with another rate.
    """

    name: str = field(default="signum", init=False)
    lr: float = setting(2e-4, above=0)
    scale_lr_by_width: bool = True
    momentum: float = setting(0.9, min=0, below=1)

    def first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum": parameter.new_zeros(parameter.shape)} if self.momentum else {}

    def update(self, step: Step) -> None:
        rows_R, direction_RD = step.projected_gradient()
        if self.momentum:
            direction_RD = step.follow("momentum", direction_RD, 1 - self.momentum)
        for w_rD, direction_rD in step.blocks(rows_R, direction_RD):
            w_rD.sub_(direction_rD.sign().mul_(step.lr))

    @property
    def moves_fired_rows_alone(self) -> bool:
        return not self.momentum

    @property
    def num_moments(self) -> int:
        return 1 if self.momentum else 0
