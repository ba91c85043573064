"""Adam, in one pass over the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist import kernels
from sae_dist.common.settings import setting
from sae_dist.train.optimizers.config import OptimConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.train.optimizers.optimizer import Step


@dataclass(kw_only=True)
class Adam(OptimConfig):
    """Adam (Kingma & Ba 2015), exactly torch.optim.Adam's arithmetic.

    With `beta1` = 0 it keeps no first moment, and where gradients are sparse only their rows are
    visited. Gemma Scope's settings are the defaults (Lieberum et al. 2024, section 3.2).
    """

    name: str = field(default="adam", init=False)
    beta1: float = setting(0.0, min=0, below=1)
    beta2: float = setting(0.999, min=0, below=1)
    eps: float = setting(1e-8, above=0)

    def first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        state = {"exp_avg_sq": parameter.new_zeros(parameter.shape)}
        if self.beta1:
            state["exp_avg"] = parameter.new_zeros(parameter.shape)
        elif name in ("W_enc", "W_dec"):
            state["last_step"] = parameter.new_zeros(len(parameter)).long()
        return state

    def update(self, step: Step) -> None:
        adam_update(step, self.beta1, self.beta2, self.eps)

    @property
    def moves_fired_rows_alone(self) -> bool:
        """The second moment's decay is made up for later."""
        return not self.beta1

    @property
    def takes_places(self) -> bool:
        return True

    @property
    def num_moments(self) -> int:
        return 2 if self.beta1 else 1


def adam_update(step: Step, beta1: float, beta2: float, eps: float) -> None:
    """Take Adam's step of one parameter, whose state is `Adam`'s; a vector is one row.

    In one pass the decoder's gradient is projected and its rows are scaled to unit norm, and the
    encoder's rounded copy is written again.
    """
    shape = -1, step.parameter.shape[-1]
    kept = {f"{key}_FD": step.state[key].view(shape) for key in step.state if key != "last_step"}
    copy = step.coder.encoder() if step.name == "W_enc" else None
    rows = kernels.AdamRows(
        W_FD=step.parameter.view(shape),
        **kept,
        last_step_F=step.state.get("last_step"),
        bf16_FD=copy.copy_FD if copy else None,
        error_F=copy.error_F if copy else None,
        norm_F=copy.norm_F if copy else None,
    )
    adam = kernels.AdamStep(
        number=step.number,
        skip=step.skip,
        lr=step.rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_scale=step.grad_scale,
        unit_norm=step.has_unit_rows,
    )
    gradient = step.gradient()
    grad_RD = gradient.values_RD.view(shape)
    kernels.update_rows(rows, grad_RD, gradient.rows_R, adam, gradient.place_F)
    if copy:
        step.coder.encoder_is_current()
