"""Adam, and what keeps a decoder's rows at unit norm in it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.common.settings import validate
from sae_dist.kernels import AdamRows, AdamStep, update_rows
from sae_dist.train.config import OptimConfig

_OF_ROWS = ("W_enc", "W_dec")
_BLOCK_ROWS = 1024  # whose products stay in a CPU's cache


class Adam:
    """Adam over a coder's parameters (Kingma & Ba 2015), exactly torch.optim.Adam's arithmetic.

    W_enc and W_dec are updated row by row in one pass, in which the decoder's gradient loses its
    component along each row and the rows are scaled to unit norm (with `unit_norm_decoder`), and
    the encoder's rounded copy is written again. With `beta1` = 0 no first moment is kept, and
    where gradients are sparse only their rows are visited.

    Attributes:
        num_steps: how many were taken.

    Raises:
        UserError: a setting outside of its range.
    """

    def __init__(self, coder: Coder, config: OptimConfig) -> None:
        validate(config, "optim.")
        self.coder, self.config, self.num_steps = coder, config, 0
        rows = {name: coder.get_parameter(name) for name in _OF_ROWS}
        self.exp_avg_sq = {name: torch.zeros_like(W) for name, W in rows.items()}
        self.exp_avg: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}
        for name, W in rows.items():
            if config.beta1:
                self.exp_avg[name] = torch.zeros_like(W)
            else:
                self.seen[name] = torch.zeros(len(W), dtype=torch.int64, device=W.device)
        self.others = {n: p for n, p in coder.named_parameters() if n not in rows}
        self.adam = torch.optim.Adam(
            self.others.values(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )
        for parameter in self.others.values():
            self.adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def step(self, lr: float, grad_scale: Tensor) -> None:
        """Update all parameters by their gradients, which are overwritten.

        Args:
            lr: the learning rate.
            grad_scale: what gradients are multiplied by before all else (0-dim).
        """
        self.num_steps += 1
        for name in _OF_ROWS:
            self._update_rows(name, lr, grad_scale)
        for parameter in self.others.values():
            if parameter.grad is not None:
                parameter.grad *= grad_scale
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()

    def _update_rows(self, name: str, lr: float, grad_scale: Tensor) -> None:
        coder, config = self.coder, self.config
        W_FD, is_encoder = coder.get_parameter(name), name == "W_enc"
        copy = coder.encoder() if is_encoder else None
        rows_R, grad_RD = gradient_rows(W_FD)
        rows = AdamRows(
            W_FD=W_FD,
            exp_avg_sq_FD=self.exp_avg_sq[name],
            exp_avg_FD=self.exp_avg.get(name),
            last_step_F=self.seen.get(name),
            bf16_FD=copy.bf16_FD if copy else None,
            error_F=copy.error_F if copy else None,
            norm_F=copy.norm_F if copy else None,
        )
        adam = AdamStep(
            step=self.num_steps,
            lr=lr,
            beta1=config.beta1,
            beta2=config.beta2,
            eps=config.eps,
            grad_scale=grad_scale,
            unit_norm=coder.config.unit_norm_decoder and not is_encoder,
        )
        update_rows(rows, grad_RD, rows_R, adam)
        if is_encoder:
            coder.encoder_is_current()

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Of each parameter its name, the state's and the state: all that a checkpoint needs."""
        for key in ("exp_avg", "exp_avg_sq", "seen"):
            for name, tensor in getattr(self, key).items():
                yield name, key, tensor
        for name, parameter in self.others.items():
            for key, tensor in self.adam.state[parameter].items():
                yield name, key, tensor


def gradient_rows(W_FD: Tensor) -> tuple[Tensor | None, Tensor]:
    """The rows that a gradient has (None for all), and their gradients [R, D]."""
    grad = W_FD.grad
    assert grad is not None
    if not grad.is_sparse:
        return None, grad
    grad = grad.coalesce()
    rows_R = grad.indices()[0]
    return (None if len(rows_R) == len(W_FD) else rows_R), grad.values()


@torch.no_grad()
def gradient_squares(coder: Coder) -> dict[str, Tensor]:
    """‖gradient‖² of each parameter as Adam sees it: W_dec's without what lies along its rows."""
    squares = {}
    for name, parameter in coder.named_parameters():
        if name in _OF_ROWS:
            rows_R, grad_RD = gradient_rows(parameter)
            squares[name] = torch.linalg.vector_norm(grad_RD).square()
            if name == "W_dec" and coder.config.unit_norm_decoder:
                W_RD = parameter if rows_R is None else parameter[rows_R]
                along = zip(grad_RD.split(_BLOCK_ROWS), W_RD.split(_BLOCK_ROWS), strict=True)
                for grad_rD, W_rD in along:
                    squares[name] -= torch.linalg.vecdot(grad_rD, W_rD).square().sum()
                squares[name].clamp_min_(0.0)
        elif parameter.grad is not None:
            squares[name] = torch.linalg.vector_norm(parameter.grad).square()
    return squares
