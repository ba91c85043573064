"""What every optimizer is, and what keeps a decoder's rows at unit norm in each of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.common.settings import validate

OF_ROWS = ("W_enc", "W_dec")  # the matrices with a row a latent
_BLOCK_ROWS = {"cpu": 1024}  # whose products stay in a CPU's cache
_BLOCK_ROWS_ELSEWHERE = 1 << 16


class Optimizer(ABC):
    """Makes a coder's weights of its gradients and of what it remembers of earlier ones.

    With `unit_norm_decoder` the decoder's gradient loses its component along each row before all
    else, and the rows are scaled to unit norm after the step; a zero row stays.

    Args:
        coder: whole, or a slice of its latents, whose gradients are those of the global batch.
        config: its settings.

    Attributes:
        state: what is remembered of each parameter, by names of its own; all that a checkpoint
            needs. Each tensor has a row where the parameter has one.

    Raises:
        UserError: a setting outside of its range.
    """

    def __init__(self, coder: Coder, config: Any) -> None:
        validate(config, "optim.")
        self.coder, self.config = coder, config
        self.state = {name: self._first_state(name, p) for name, p in coder.named_parameters()}

    @abstractmethod
    def _first_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter before the first step."""

    @abstractmethod
    def _update(
        self, name: str, parameter: Tensor, number: int, lr: float, grad_scale: Tensor
    ) -> None:
        """Take the step of one parameter, which has a gradient; see `step`."""

    @torch.no_grad()
    def step(self, number: int, lr: float, grad_scale: Tensor) -> None:
        """Update all parameters by their gradients, which are overwritten.

        Args:
            number: of the step, from 1.
            lr: the learning rate.
            grad_scale: what gradients are multiplied by before all else (0-dim).
        """
        for name, parameter in self.coder.named_parameters():
            if parameter.grad is not None:
                self._update(name, parameter, number, lr, grad_scale)

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Of each parameter its name, the state's and the state."""
        for name, states in self.state.items():
            for key, tensor in states.items():
                yield name, key, tensor

    def has_unit_rows(self, name: str) -> bool:
        """Whether a parameter's rows are kept at unit norm."""
        return name == "W_dec" and self.coder.config.unit_norm_decoder

    def projected(
        self, name: str, parameter: Tensor, grad_scale: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """The rows that a gradient has (None for all), and their gradients: scaled, projected."""
        rows_R, grad_RD = gradient_rows(parameter)
        grad_RD.mul_(grad_scale)
        if self.has_unit_rows(name):
            W_RD = parameter if rows_R is None else parameter[rows_R]
            for grad_rD, w_rD in row_blocks(grad_RD, W_RD):
                grad_rD.addcmul_(torch.linalg.vecdot(grad_rD, w_rD)[:, None], w_rD, value=-1)
        return rows_R, grad_RD


def gradient_rows(W_FD: Tensor) -> tuple[Tensor | None, Tensor]:
    """The rows that a gradient has (None for all), and their gradients [R, D]."""
    grad = W_FD.grad
    assert grad is not None
    if not grad.is_sparse:
        return None, grad
    grad = grad.coalesce()
    rows_R = grad.indices()[0]
    return (None if len(rows_R) == len(W_FD) else rows_R), grad.values()


def row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same rows of each, block by block."""
    size = _BLOCK_ROWS.get(tensors[0].device.type, _BLOCK_ROWS_ELSEWHERE)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def scale_to_unit_norm(w_rD: Tensor) -> None:
    """Divide rows by their norm, in place; a zero row stays."""
    norms_r1 = torch.linalg.vector_norm(w_rD, dim=1, keepdim=True)
    w_rD /= norms_r1.clamp_min(torch.finfo(w_rD.dtype).tiny)


@torch.no_grad()
def gradient_squares(coder: Coder) -> dict[str, Tensor]:
    """‖gradient‖² of each parameter as an optimizer sees it: W_dec's without what lies along its
    rows, where these have unit norm.
    """
    squares = {}
    for name, parameter in coder.named_parameters():
        if parameter.grad is None:
            continue
        rows_R, grad_RD = gradient_rows(parameter)
        squares[name] = torch.linalg.vector_norm(grad_RD).square()
        if name == "W_dec" and coder.config.unit_norm_decoder:
            W_RD = parameter if rows_R is None else parameter[rows_R]
            for grad_rD, w_rD in row_blocks(grad_RD, W_RD):
                squares[name] -= torch.linalg.vecdot(grad_rD, w_rD).square().sum()
            squares[name].clamp_min_(0.0)
    return squares
