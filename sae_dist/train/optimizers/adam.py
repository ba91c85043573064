"""Adam, in one pass over the rows."""

import torch
from torch import Tensor

from sae_dist.kernels import AdamRows, AdamStep, Encoder, update_rows
from sae_dist.train.optimizers.optimizer import OF_ROWS, Optimizer, gradient_rows


class Adam(Optimizer):
    """Adam over a coder's parameters (Kingma & Ba 2015), exactly torch.optim.Adam's arithmetic.

    W_enc and W_dec are updated row by row in one pass, in which the decoder's gradient is
    projected and its rows are scaled to unit norm, and the encoder's rounded copy is written
    again. With `beta1` = 0 no first moment is kept, and where gradients are sparse only their rows
    are visited.
    """

    def _first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        state = {"exp_avg_sq": torch.zeros_like(parameter)}
        if self.config.beta1:
            state["exp_avg"] = torch.zeros_like(parameter)
        elif name in OF_ROWS:
            device = parameter.device
            state["last_step"] = torch.zeros(len(parameter), dtype=torch.int64, device=device)
        return state

    def _update(
        self, name: str, parameter: Tensor, number: int, lr: float, grad_scale: Tensor
    ) -> None:
        adam = AdamStep(
            step=number,
            lr=lr,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            eps=self.config.eps,
            grad_scale=grad_scale,
            unit_norm=self.has_unit_rows(name),
        )
        is_encoder = name == "W_enc"
        copy = self.coder.encoder() if is_encoder else None
        adam_update(parameter, self.state[name], adam, copy)
        if is_encoder:
            self.coder.encoder_is_current()


def adam_update(
    parameter: Tensor, state: dict[str, Tensor], adam: AdamStep, copy: Encoder | None = None
) -> None:
    """Take a step of one parameter; a vector is one row.

    Args:
        parameter: with its gradient, which is overwritten.
        state: its `exp_avg_sq`, and `exp_avg` and `last_step` (see `AdamRows`) if it has them.
        adam: the step's settings.
        copy: of the encoder, to write again.
    """
    is_vector = parameter.dim() == 1

    def rows_of(tensor: Tensor | None) -> Tensor | None:
        return tensor[None] if is_vector and tensor is not None else tensor

    rows_R, grad_RD = gradient_rows(parameter)
    rows = AdamRows(
        W_FD=parameter[None] if is_vector else parameter,
        exp_avg_sq_FD=state["exp_avg_sq"][None] if is_vector else state["exp_avg_sq"],
        exp_avg_FD=rows_of(state.get("exp_avg")),
        last_step_F=state.get("last_step"),
        bf16_FD=copy.copy_FD if copy else None,
        error_F=copy.error_F if copy else None,
        norm_F=copy.norm_F if copy else None,
    )
    update_rows(rows, grad_RD[None] if is_vector else grad_RD, rows_R, adam)
