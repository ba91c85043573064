"""What is minimised, from sums over the global batch. All figures are of the global batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.levels import level_errors
from sae_dist.coders.passes import DeadLatents, Decoded, sparse_pass

Price = Callable[[Tensor], dict[str, Tensor]]
"""From ŷ [B, E], as it is trained, to sums over the rows here in float64: a `price`, and of how
many: `priced`.
"""
ROUNDING = 1e-12
"""Of Σ‖y‖²: what float32 may leave of a variance of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the rows of the global batch, by name, and what follows from them.

    Attributes:
        sums: `errors` Σ‖y-ŷ‖² of each level [L], `active` entries, `target` (see `moments`), and
            the kind's own.
        level_weights: what each level's error counts.
        variation: Σ‖y-ȳ‖², 0 if the target does not vary; `scale` is then the number of rows.
        l0: active entries a row.
        sum_latents: adds up what the slices of the latents have each of their own.
    """

    sums: dict[str, Tensor]
    level_weights: list[float]
    num_rows: int
    variation: Tensor
    l0: Tensor
    sum_latents: Callable[[Tensor], Tensor]

    @property
    def error(self) -> Tensor:
        """Σ‖y-ŷ‖², of several levels their weighted mean."""
        if len(self.level_weights) == 1:
            return self.sums["errors"].squeeze(0)
        weighted = zip(self.sums["errors"].unbind(), self.level_weights, strict=True)
        return torch.stack([error * weight for error, weight in weighted]).sum()

    @property
    def scale(self) -> Tensor:
        """What an error is divided by for an FVU, or where that is none for a mean square."""
        return torch.where(self.variation == 0, self.num_rows, self.variation)


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
    least: Tensor


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
    totals = Totals(
        sums=sums,
        level_weights=config.level_weights.of(config.levels or ()),
        num_rows=num_rows,
        variation=total_variance(sums["target"], num_rows),
        l0=sums["active"] / num_rows,
        sum_latents=coder.collectives.sum_latents,
    )
    parts = config.loss_parts(totals, sparsity_coefficient, dead)
    if price is not None:
        cost = sums["price"] / sums["priced"]
        others = torch.stack(list(parts.values())).sum()
        balance = (others / cost.clamp_min(torch.finfo(cost.dtype).tiny)).detach()
        parts["price"] = balance * cost
    fvu_L = torch.where(totals.variation == 0, torch.nan, sums["errors"] / totals.variation)
    *inner, fvu = fvu_L.detach().unbind()
    return LossTerms(
        loss=torch.stack(list(parts.values())).sum(),
        parts={name: part.detach() for name, part in parts.items()},
        fvu=fvu,
        level_fvus=inner,
        l0=totals.l0.detach(),
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
    """The coder's pass, and all that its loss needs summed over the rows, by name in float64.

    What one pass decodes to is summed over the slices while the next ones are computed.
    """
    decoded = sparse_pass(coder, x_BD, config)
    further = config.further_sums(coder, x_BD, dead)
    sums = {"target": moments(y_BE)}
    errors, error_BE = [], y_BE
    for error_BE in level_errors(coder, x_BD, y_BE, decoded.decoded()):
        errors.append(square_sum(error_BE))
    sums["errors"] = torch.stack(errors) if len(errors) > 1 else errors[0][None]
    if price is not None:
        sums |= price(y_BE - error_BE)
    own = decoded.sums(y_BE, error_BE) | further(y_BE, error_BE)
    sums |= {name: own_sum.double() for name, own_sum in own.items()}
    sums["active"] = coder.collectives.sum_latents(sums["active"])
    return decoded, sums


class _SquareSum(torch.autograd.Function):
    """Σ v² in float64 without a tensor of squares, forward or backward."""

    @staticmethod
    def forward(ctx: Any, v_BE: Tensor) -> Tensor:
        ctx.save_for_backward(v_BE)
        return torch.linalg.vector_norm(v_BE, dim=-1).double().square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v_BE,) = ctx.saved_tensors
        return v_BE * (2 * grad).to(v_BE.dtype)


def square_sum(v_BE: Tensor) -> Tensor:
    """Σ v² in float64."""
    return _SquareSum.apply(v_BE)


def moments(y_BE: Tensor) -> Tensor:
    """Σ y and Σ‖y‖² over the rows [E + 1] in float64, to be added up over the parts of a batch.

    Squares are taken around the rows' own mean, so that a large mean costs no digits.
    """
    mean_E = y_BE.mean(0)
    squares = square_sum(y_BE - mean_E) + len(y_BE) * square_sum(mean_E.double())
    return torch.cat([len(y_BE) * mean_E.double(), squares[None]])


def total_variance(moments: Tensor, num_rows: int | Tensor) -> Tensor:
    """Σ‖y-ȳ‖² with ȳ the mean of all rows, from their moments: an FVU's denominator.

    0 where rounding alone could leave as much of rows that are all equal.
    """
    left = moments[-1] - square_sum(moments[:-1]) / num_rows
    return torch.where(left <= ROUNDING * moments[-1], 0.0, left)
