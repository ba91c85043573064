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
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.levels import level_errors
from sae_dist.coders.passes import DeadLatents, Decoded, sparse_pass
from sae_dist.kernels import dispatch as kernels
from sae_dist.kernels import vectorised
from sae_dist.kernels.dispatch import moments as moments
from sae_dist.kernels.dispatch import total_variance as total_variance
from sae_dist.kernels.plain import ROUNDING as ROUNDING

Price = Callable[[Tensor], dict[str, Tensor]]
"""From ŷ [B, E], as it is trained, to sums over the rows here in float64: a `price`, and of how
many: `priced`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the rows of the global batch, by name, and what follows from them.

    Attributes:
        sums: `errors` Σ‖y-ŷ‖² of each level [L], `active` entries, `target` (see `moments`), and
            the kind's own.
        level_weights: what each level's error counts.
        variation: Σ‖y-ȳ‖², 0 if the target does not vary.
        scale: what an error is divided by for an FVU, or where that is none for a mean square: the
            variation or the number of rows.
        sum_latents: adds up what the slices of the latents have each of their own.
    """

    sums: dict[str, Tensor]
    level_weights: list[float]
    num_rows: int
    variation: Tensor
    scale: Tensor
    sum_latents: Callable[[Tensor], Tensor]

    @property
    def error(self) -> Tensor:
        """Σ‖y-ŷ‖², of several levels their weighted mean."""
        if len(self.level_weights) == 1:
            return self.sums["errors"].squeeze(0)
        weighted = zip(self.sums["errors"].unbind(), self.level_weights, strict=True)
        return reduce(add, (error * weight for error, weight in weighted))

    @property
    def l0(self) -> Tensor:
        """Active entries a row, with a gradient where the kind has one."""
        return self.sums["active"] / self.num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A batch's loss with its parts, its FVU (NaN: the target does not vary), that of the levels
    before the last, its L0, and what fired here (see `Decoded`).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    fvu: Tensor
    level_fvus: list[Tensor]
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
    config: CoderConfig | None = None,
    price: Price | None = None,
) -> LossTerms:
    """Encode, decode and compute the loss of one (part of a) batch of normalised activations.

    The mean squared error takes the FVU's place in the loss of a batch whose target does not vary.

    Args:
        coder: in training mode.
        x_BD, y_BE: input and target; the same tensor for an autoencoder.
        sparsity_coefficient: λ at this step, of kinds with a penalty.
        dead: the latents that AuxK reads.
        config: what it is taken for at this step (see `CoderConfig.at_step`); its own by default.
        price: what the reconstruction costs elsewhere. Its mean has the weight at which it is as
            large as the other parts of the loss together, as a constant.
    """
    config, seen_BD = config or coder.config, coder.prepared(x_BD)
    if seen_BD is not x_BD:  # what an autoencoder sees is what it reconstructs
        x_BD = y_BE = seen_BD
    num_rows = len(x_BD) * coder.collectives.num_parts
    decoded, own = _sums(coder, config, x_BD, y_BE, dead, price)
    sums = coder.collectives.sum_rows(own)
    target, errors_L, active = (sums[key].detach() for key in ("target", "errors", "active"))
    variation, scale, fvu, l0 = kernels.explained(target, errors_L[-1], active, num_rows)
    totals = Totals(
        sums=sums,
        level_weights=config.level_weights.of(config.levels or ()),
        num_rows=num_rows,
        variation=variation,
        scale=scale,
        sum_latents=coder.collectives.sum_latents,
    )
    parts = config.loss_parts(totals, sparsity_coefficient, dead)
    if price is not None:
        cost, others = sums["price"] / sums["priced"], reduce(add, parts.values())
        balance = (others / cost.clamp_min(torch.finfo(cost.dtype).tiny)).detach()
        parts["price"] = balance * cost
    return LossTerms(
        loss=reduce(add, parts.values()),
        parts={name: part.detach() for name, part in parts.items()},
        fvu=fvu,
        level_fvus=[
            torch.where(variation == 0, torch.nan, error / variation)
            for error in errors_L[:-1].unbind()
        ],
        l0=l0,
        fired_F=decoded.fired_F,
        least=decoded.least,
    )


def _sums(
    coder: Coder,
    config: CoderConfig,
    x_BD: Tensor,
    y_BE: Tensor,
    dead: DeadLatents,
    price: Price | None,
) -> tuple[Decoded, dict[str, Tensor]]:
    """The coder's pass, and all that its loss needs summed over the rows, by name.

    What one pass decodes to is summed over the slices while the next ones are computed.
    """
    decoded = sparse_pass(coder, x_BD, config)
    further = config.further_sums(coder, x_BD, dead)
    blocks = decoded.decoded()
    if len(blocks) == 1 and price is None:
        decoded_BE = coder.with_skip(blocks[0], x_BD)
        error, target, error_BE = _Residual.apply(y_BE, decoded_BE, coder.b_dec)
        sums = {"target": target, "errors": error[None]}
    else:
        errors, error_BE = [], y_BE
        for error_BE in level_errors(coder, x_BD, y_BE, blocks):
            errors.append(square_sum(error_BE))
        sums = {"target": moments(y_BE), "errors": torch.stack(errors)}
    if price is not None:
        sums |= price(y_BE - error_BE)
    own = decoded.sums(y_BE, error_BE.detach()) | further(y_BE, error_BE.detach())
    own["active"] = coder.collectives.sum_latents(_summable(own["active"]))
    return decoded, sums | {name: _summable(own_sum) for name, own_sum in own.items()}


def _summable(of_rows: Tensor) -> Tensor:
    """Counts stay, and all else is summed in float64."""
    return of_rows.double() if of_rows.is_floating_point() else of_rows


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
