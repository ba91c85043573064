"""What is minimised, from sums over the global batch. All figures are of the global batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.coders.coder import Coder
from sae_dist.coders.passes import DeadLatents, Decoded, sparse_pass
from sae_dist.kernels import dispatch as kernels
from sae_dist.kernels import vectorised
from sae_dist.kernels.dispatch import moments as moments
from sae_dist.kernels.dispatch import total_variance as total_variance
from sae_dist.kernels.reference import ROUNDING as ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the rows of the global batch, by name, and what follows from them.

    Attributes:
        sums: `error` Σ‖y-ŷ‖², `active` entries, `target` (see `moments`), and the kind's own.
        variation: Σ‖y-ȳ‖², 0 if the target does not vary.
        scale: what an error is divided by for an FVU, or where that is none for a mean square: the
            variation or the number of rows.
    """

    sums: dict[str, Tensor]
    num_rows: int
    variation: Tensor
    scale: Tensor

    @property
    def l0(self) -> Tensor:
        """Active entries a row, with a gradient where the kind has one."""
        return self.sums["active"] / self.num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A batch's loss with its parts, its FVU (NaN: the target does not vary) and L0, and what fired
    here (see `Decoded`).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    fvu: Tensor
    l0: Tensor
    fired_F: Tensor
    least: Callable[[], Tensor]


def training_forward(
    coder: Coder,
    x_BD: Tensor,
    y_BE: Tensor,
    *,
    sparsity_coefficient: float,
    dead: DeadLatents,
) -> LossTerms:
    """Encode, decode and compute the loss of one (part of a) batch of normalised activations.

    The mean squared error takes the FVU's place in the loss of a batch whose target does not vary.

    Args:
        coder: in training mode.
        x_BD, y_BE: input and target; the same tensor for an autoencoder.
        sparsity_coefficient: λ at this step, of kinds with a penalty.
        dead: the latents that AuxK reads.
    """
    num_rows = len(x_BD) * coder.collectives.num_parts
    decoded, own = _sums(coder, x_BD, y_BE, dead)
    sums = coder.collectives.sum_rows(own)
    target, error, active = sums["target"], sums["error"].detach(), sums["active"].detach()
    variation, scale, fvu, l0 = kernels.explained(target, error, active, num_rows)
    totals = Totals(sums=sums, num_rows=num_rows, variation=variation, scale=scale)
    parts = coder.config.loss_parts(totals, sparsity_coefficient, dead)
    return LossTerms(
        loss=reduce(add, parts.values()),
        parts={name: part.detach() for name, part in parts.items()},
        fvu=fvu,
        l0=l0,
        fired_F=decoded.fired_F,
        least=decoded.least,
    )


def _sums(
    coder: Coder, x_BD: Tensor, y_BE: Tensor, dead: DeadLatents
) -> tuple[Decoded, dict[str, Tensor]]:
    """The coder's pass, and all that its loss needs summed over the rows, by name.

    What one pass decodes to is summed over the slices while the next ones are computed.
    """
    decoded = sparse_pass(coder, x_BD)
    further = coder.config.further_sums(coder, x_BD, dead)
    decoded_BE = coder.with_skip(decoded.decoded(), x_BD)
    error, target, error_BE = _Residual.apply(y_BE, decoded_BE, coder.b_dec)
    active = decoded.num_active
    active = active.double() if active.is_floating_point() else active
    active = coder.collectives.sum_latents(active)
    sums = {"target": target, "error": error, "active": active}
    return decoded, sums | further(y_BE, error_BE)


class _Residual(torch.autograd.Function):
    """Σ‖e‖² of e = y - (ŷ + b), with y's moments and e itself, which are not differentiated."""

    @staticmethod
    def forward(
        ctx: Any, y_BE: Tensor, decoded_BE: Tensor, b_E: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        e_BE, sums_S, moments_S = kernels.residual(y_BE, decoded_BE, b_E)
        ctx.save_for_backward(e_BE, sums_S)
        ctx.mark_non_differentiable(moments_S, e_BE)
        ctx.set_materialize_grads(False)
        return sums_S[-1], moments_S, e_BE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[None, Tensor, Tensor]:
        e_BE, sums_S = ctx.saved_tensors
        slope = -2 * grad
        grad_b_E = e_BE.new_empty(e_BE.shape[1])
        return None, e_BE * slope, torch.mul(sums_S[:-1], slope, out=grad_b_E)


class _SquareSum(torch.autograd.Function):
    """Σ v² in float64 without a tensor of squares, forward or backward."""

    @staticmethod
    def forward(ctx: Any, v_BE: Tensor) -> Tensor:
        ctx.save_for_backward(v_BE)
        return vectorised.square_sum(v_BE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v_BE,) = ctx.saved_tensors
        return v_BE * (2 * grad).to(v_BE.dtype)


def square_sum(v_BE: Tensor) -> Tensor:
    """Σ v² in float64."""
    return _SquareSum.apply(v_BE)
