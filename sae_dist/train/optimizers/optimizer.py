"""A coder's optimizer at work, and what keeps a decoder's rows at unit norm in each of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Form, layers_of
from sae_dist.coders.coder import site_norms
from sae_dist.common.settings import validate
from sae_dist.kernels import RowGradient, host
from sae_dist.kernels import dispatch as kernels
from sae_dist.parallel.cost import UpdateCost
from sae_dist.train.optimizers.config import OptimConfig

_BLOCK_ROWS = {"cpu": 1024}  # whose products stay in a CPU's cache
_BLOCK_ROWS_ELSEWHERE = 1 << 16


@dataclass(frozen=True, slots=True)
class Step:
    """The step of one parameter.

    With `unit_norm_decoder` the decoder's gradient loses its component along each row before all
    else, and the rows are scaled to unit norm after the step; a zero row stays. Of a crosscoder,
    whose norms are sums over sites, `project_gradient` and `Optimizer` do so.

    Attributes:
        coder: whole, or a slice of its latents, whose gradients are those of the global batch.
        parameter: the one called `name`, with its gradient, which may be overwritten.
        state: what is remembered of it.
        number: from 1 (0-dim, int64).
        rate: the learning rate (0-dim, float32, where it is a tensor).
        skip: whether nothing is to be changed, on a device that the host does not wait for (0-dim,
            bool); elsewhere such a step is not taken.
        grad_scale: what the gradient is to be multiplied by before all else (0-dim).
    """

    coder: Coder
    name: str
    parameter: Tensor
    state: dict[str, Tensor]
    number: Tensor
    rate: float | Tensor
    skip: Tensor
    grad_scale: Tensor

    @property
    def lr(self) -> float | Tensor:
        """The learning rate, 0 of a step that is skipped."""
        return self._unless_skipped(self.rate)

    def follow(self, key: str, value: Tensor, weight: float) -> Tensor:
        """Move what is remembered as `key` towards `value` by `weight`, and give it."""
        return self.state[key].lerp_(value, self._unless_skipped(weight))

    def _unless_skipped(self, number: float | Tensor) -> float | Tensor:
        if host.is_at_hand(self.skip):
            return number
        like = number if isinstance(number, Tensor) else self.parameter.new_full((), number)
        return like.masked_fill(self.skip, 0.0)

    @property
    def has_unit_rows(self) -> bool:
        """Whether the rows are kept at unit norm."""
        is_decoder = self.name == "W_dec" and self.coder.config.unit_norm_decoder
        return is_decoder and not _sums_norms(self.coder)

    def gradient(self) -> RowGradient:
        """The gradient as it is: in places only if the optimizer `takes_places`."""
        gradient = _gradient(self.coder, self.parameter)
        assert gradient is not None
        return gradient

    def projected_gradient(self) -> tuple[Tensor | None, Tensor]:
        """The rows that it has (None for all), and their gradients [R, D] scaled and projected, in
        their place.
        """
        gradient = self.gradient()
        rows_R, grad_RD = gradient.rows_R, gradient.values_RD
        grad_RD.mul_(self.grad_scale)
        if not host.is_at_hand(self.skip):
            grad_RD.masked_fill_(self.skip, 0.0)
        if self.has_unit_rows:
            for grad_rD, w_rD in _row_blocks(grad_RD, _rows(self.parameter, rows_R)):
                grad_rD.addcmul_(torch.linalg.vecdot(grad_rD, w_rD)[:, None], w_rD, value=-1)
        return rows_R, grad_RD

    def blocks(
        self, rows_R: Tensor | None, direction_RD: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights and directions of these rows (None: all), block by block, to move the former."""
        W_RD = _rows(self.parameter, rows_R)
        for w_rD, direction_rD in _row_blocks(W_RD, direction_RD):
            yield w_rD, direction_rD
            if self.has_unit_rows:
                scale_to_unit_norm(w_rD)
        if rows_R is not None:
            self.parameter[rows_R] = W_RD


def update_cost(optim: OptimConfig, coder: CoderConfig, d_in: int, d_out: int) -> UpdateCost:
    """What updates of all of a coder's matrices take."""
    each = [optim.cost(one.num_latents, d, e) for one, d, e in layers_of(coder, d_in, d_out)]
    sums = tuple(num for cost in each for num in cost.sums)
    return replace(each[0], sums=sums, flops=sum(cost.flops for cost in each))


class Optimizer:
    """Makes a coder's weights of its gradients and of what it remembers of earlier ones.

    Args:
        coder: see `Step`.
        config: what kind of optimizer, and its settings.

    Attributes:
        state: what is remembered of each parameter, by name; all that a checkpoint needs.

    Raises:
        UserError: a setting outside of its range.
    """

    def __init__(self, coder: Coder, config: OptimConfig) -> None:
        validate(config, "optim.")
        self.coder, self.config = coder, config
        self.state = {
            name: config.first_state(_leaf(name), p) for name, p in coder.named_parameters()
        }

    @torch.no_grad()
    def step(self, number: Tensor, lr: float | Tensor, grad_scale: Tensor, skip: Tensor) -> None:
        """Update all parameters that have a gradient, after `project_gradient`; see `Step`."""
        if host.is_at_hand(skip) and skip:
            return
        rest = number, lr, skip, grad_scale
        for name, parameter in self.coder.named_parameters():
            if _gradient(self.coder, parameter) is not None:
                state, part = self.state[name], _holder(self.coder, name)
                self.config.update(Step(part, _leaf(name), parameter, state, *rest))
        if _sums_norms(self.coder):
            _scale_sums(self.coder, skip)

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Of each parameter its name, the state's and the state."""
        for name, states in self.state.items():
            for key, tensor in states.items():
                yield name, key, tensor


def scale_to_unit_norm(W_FD: Tensor, num_sites: int = 1) -> None:
    """Divide rows by their norm (of several sites the sum of these), in place; a zero row stays."""
    for (w_rD,) in _row_blocks(W_FD):
        w_rD /= site_norms(w_rD, num_sites).sum(1, keepdim=True).clamp_min(_tiny(w_rD))


def _sums_norms(coder: Coder) -> bool:
    """Whether Σ_l ‖d_j^l‖ of each decoder row is kept at 1, l being a crosscoder's sites.

    So that an activation is what it comes to at all sites together, as in Lindsey et al. (2024)
    f_j Σ_l ‖d_j^l‖, by which latents are selected and priced.
    """
    return coder.config.unit_norm_decoder and coder.config.form is Form.crosscoder


@torch.no_grad()
def project_gradient(coder: Coder) -> None:
    """Take from a crosscoder's gradient what would change its rows' sums of norms, in place; a site
    at 0 has no say. Of other forms an optimizer does so by itself.
    """
    W_dec = coder.W_dec if _sums_norms(coder) else None
    if W_dec is None or W_dec.grad is None:
        return
    if W_dec.grad.is_sparse:
        W_dec.grad = W_dec.grad.coalesce()
    gradient = _of_autograd(W_dec.grad)
    for grad_rD, w_rD in _row_blocks(gradient.values_RD, _rows(W_dec, gradient.rows_R)):
        grad_rLd, w_rLd = (v.unflatten(1, (coder.config.num_sites, -1)) for v in (grad_rD, w_rD))
        unit_rLd = torch.nn.functional.normalize(w_rLd, dim=2, eps=_tiny(w_rLd))
        num_r = torch.linalg.vector_norm(unit_rLd, dim=2).square().sum(1).clamp_min(1.0)
        along_r = (grad_rLd * unit_rLd).sum((1, 2)) / num_r
        grad_rLd.addcmul_(along_r[:, None, None], unit_rLd, value=-1)


def _scale_sums(coder: Coder, skip: Tensor) -> None:
    """Divide the rows that have a gradient by their sums of norms, unless the step is skipped; 0
    stays.
    """
    gradient = _gradient(coder, coder.W_dec)
    rows_R = None if gradient is None else gradient.rows_R
    W_RE = _rows(coder.W_dec, rows_R)
    norm_R = site_norms(W_RE, coder.config.num_sites).sum(1)
    W_RE /= norm_R.where((norm_R > 0) & ~skip, 1.0)[:, None]
    if rows_R is not None:
        coder.W_dec[rows_R] = W_RE


@torch.no_grad()
def gradient_norms(coder: Coder) -> dict[str, Tensor]:
    """‖gradient‖ of each parameter as an optimizer sees it, after `project_gradient`: W_dec's
    without what lies along its rows, where these have unit norm.
    """
    parts = {}
    is_projected = coder.config.unit_norm_decoder and not _sums_norms(coder)
    for name, parameter in coder.named_parameters():
        gradient = _gradient(coder, parameter)
        if gradient is None:
            continue
        parts[name] = gradient.values_RD if gradient.norms_R is None else gradient.norms_R
        if gradient.norms_R is None and parameter.dim() == 2:
            along = parameter if is_projected and _leaf(name) == "W_dec" else None
            square = kernels.gradient_square(gradient.values_RD, gradient.rows_R, along)
            parts[name] = square.sqrt()
    return dict(zip(parts, torch._foreach_norm(list(parts.values())), strict=True))


def _leaf(name: str) -> str:
    """A parameter's name in the coder, or in the layer of one, that holds it."""
    return name.rpartition(".")[2]


def _holder(coder: Coder, name: str) -> Coder:
    return cast(Coder, coder.get_submodule(name.rpartition(".")[0]))


def _gradient(coder: Coder, parameter: Tensor) -> RowGradient | None:
    placed = coder.gradients.placed
    if placed is not None and parameter in placed:
        return placed[parameter]
    return None if parameter.grad is None else _of_autograd(parameter.grad)


def _of_autograd(grad: Tensor) -> RowGradient:
    if not grad.is_sparse:
        return RowGradient(values_RD=grad)
    grad = grad.coalesce()
    rows_R = grad.indices()[0]
    are_all = host.is_at_hand(rows_R) and len(rows_R) == len(grad)
    return RowGradient(values_RD=grad.values(), rows_R=None if are_all else rows_R)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _rows(W_FD: Tensor, rows_R: Tensor | None) -> Tensor:
    return W_FD if rows_R is None else W_FD[rows_R]


def _row_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same rows of each, block by block."""
    size = _BLOCK_ROWS.get(tensors[0].device.type, _BLOCK_ROWS_ELSEWHERE)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
