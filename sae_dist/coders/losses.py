"""What each kind of coder minimises. All figures are of the global batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import Kind
from sae_dist.coders.select import top_k
from sae_dist.kernels import jumprelu, step

ROUNDING = 1e-12
"""Of Σ‖y‖²: what float32 may leave of a variance of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One batch through a coder.

    Attributes:
        decoded: gives W_decᵀ f [B, E] of all latents, whose sum over the slices is on its way.
        num_active: active entries of this slice and part; JumpReLU's has θ's pseudo-gradient.
        fired_F: on how many rows each latent of this slice fired, int64.
        least: the least positive activation here, infinite if there is none.
    """

    decoded: Callable[[], Tensor]
    num_active: Tensor
    fired_F: Tensor
    least: Tensor


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
    least: Tensor


def training_forward(
    coder: Coder,
    x_BD: Tensor,
    y_BE: Tensor,
    *,
    sparsity_coefficient: float,
    dead_F: Tensor,
    num_dead: int,
) -> LossTerms:
    """Encode, decode and compute the loss of one (part of a) batch of normalised activations.

    The mean squared error takes the FVU's place in the loss of a batch whose target does not vary.

    Args:
        coder: in training mode.
        x_BD, y_BE: input and target; the same tensor for an autoencoder.
        sparsity_coefficient: λ at this step, read by JumpReLU.
        dead_F: bool, which of the coder's latents are dead; read by AuxK.
        num_dead: how many latents are dead in all slices together.
    """
    num_rows = len(x_BD) * coder.collectives.num_parts
    here, sums = _sums(coder, x_BD, y_BE, dead_F, num_dead)
    totals = coder.collectives.sum_rows(sums)
    variation = total_variance(totals["target"], num_rows)
    scale = torch.where(variation == 0, num_rows, variation)
    l0 = totals["active"] / num_rows
    if coder.config.kind is Kind.jumprelu:
        penalty = sparsity_coefficient * l0_penalty(l0, coder.config.target_l0)
        parts = {"reconstruction": totals["error"] / num_rows, "sparsity": penalty}
    else:
        parts = {"reconstruction": totals["error"] / scale}
    if "multi_topk" in totals:  # Gao et al. 2024, section 4.3
        parts["multi_topk"] = totals["multi_topk"] / scale / 8
    if "aux_k" in totals:  # Gao et al. 2024, App. A.2
        left = total_variance(totals["aux_k_target"], num_rows)
        aux = totals["aux_k"] / torch.where(left == 0, torch.inf, left)  # nothing to explain
        share = min(num_dead / coder.config.aux_k, 1.0)
        parts["aux_k"] = coder.config.aux_coefficient * share * aux
    return LossTerms(
        loss=torch.stack(list(parts.values())).sum(),
        parts={name: part.detach() for name, part in parts.items()},
        fvu=torch.where(variation == 0, torch.nan, totals["error"] / variation).detach(),
        l0=l0.detach(),
        fired_F=here.fired_F,
        least=here.least,
    )


def _sums(
    coder: Coder, x_BD: Tensor, y_BE: Tensor, dead_F: Tensor, num_dead: int
) -> tuple[Decoded, dict[str, Tensor]]:
    """The coder's pass, and all that its loss needs summed over the rows, by name in float64.

    What one pass decodes to is summed over the slices while the next ones are computed.
    """
    config, collectives = coder.config, coder.collectives
    here, wide, guess = run(coder, x_BD, config.k), None, None
    if config.uses_multi_topk:
        wide = run(coder, x_BD, min(4 * config.k, config.num_latents))
    if config.uses_aux_k and num_dead:  # last: autograd adds to its few rows in place
        guess = aux_k_reconstruction(coder, x_BD, dead_F, num_dead)
    sums = {"target": moments(y_BE)}

    error_BE = y_BE - coder.assemble(here.decoded(), x_BD)
    sums["error"] = square_sum(error_BE)
    sums["active"] = collectives.sum_latents(here.num_active.double())
    if wide is not None:
        sums["multi_topk"] = square_sum(y_BE - coder.assemble(wide.decoded(), x_BD))
    if guess is not None:
        left_BE = error_BE.detach()
        sums["aux_k"] = square_sum(left_BE - guess())
        sums["aux_k_target"] = moments(left_BE)
    return here, sums


def run(coder: Coder, x_BD: Tensor, k: int) -> Decoded:
    """One batch through the coder, touching only what matters; densely while most does."""
    found = coder.candidates(x_BD, k)
    if found is None:
        return _dense_pass(coder, x_BD)
    code, z_N = found
    if coder.threshold is None:
        acts_N, num_active = z_N, torch.tensor(float(len(z_N)), device=z_N.device)
    else:
        threshold_N = coder.threshold[code.latents_N]
        acts_N = jumprelu(z_N, threshold_N, coder.config.bandwidth)
        num_active = step(z_N, threshold_N, coder.config.bandwidth).sum()
    fires_N = acts_N.detach() > 0
    return Decoded(
        decoded=coder.collectives.start_sum_latents(coder.decode_sparse(code, acts_N)),
        num_active=num_active,
        fired_F=torch.bincount(code.latents_N[fires_N], minlength=code.num_latents),
        least=_least(acts_N.detach()[fires_N]),
    )


def _dense_pass(coder: Coder, x_BD: Tensor) -> Decoded:
    """A JumpReLU's first steps: TopK and BatchTopK always find their few entries."""
    decoded_BE, num_active, fired_F, least = coder.decode_densely(x_BD)
    return Decoded(
        decoded=coder.collectives.start_sum_latents(decoded_BE),
        num_active=num_active,
        fired_F=fired_F,
        least=least,
    )


def _least(values: Tensor) -> Tensor:
    return values.min() if len(values) else values.new_full((), torch.inf)


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


def l0_penalty(l0: Tensor, target: float | None) -> Tensor:
    """mean ‖f‖₀ (Rajamanoharan et al. 2024b, eq. 9), or (2/L0*) (mean ‖f‖₀ - L0*)² with a target.

    The second form is Gemma Scope 2's, here on the batch's mean L0.
    """
    return l0 if target is None else (2 / target) * (l0 - target) ** 2


def aux_k_reconstruction(
    coder: Coder, x_BD: Tensor, dead_F: Tensor, num_dead: int
) -> Callable[[], Tensor]:
    """What the strongest dead latents make of the error (Gao et al. 2024, App. A.2).

    `ê = W_decᵀ ReLU(TopK_aux of the dead latents' z)` [B, E], without b_dec; its sum over the
    slices is on its way. In the dtype of the search: this is a nudge for latents that do not fire,
    not what they give when they do.
    """
    config, collectives = coder.config, coder.collectives
    dead = dead_F.nonzero().flatten()
    scale_d = _tie_breaking(dead + coder.latents.start, config.num_latents)

    def select(z_bd: Tensor) -> Tensor:
        is_rounded = z_bd.dtype is torch.bfloat16
        return top_k(z_bd * scale_d if is_rounded else z_bd, config.aux_k, collectives)

    return collectives.start_sum_latents(coder.decode_aux(x_BD, dead, num_dead, select))


def _tie_breaking(latents_d: Tensor, num_latents: int) -> Tensor:
    """Factors [d] in [1, 1 + 2⁻⁸), larger for lower numbers.

    bfloat16 pre-activations often tie. Times these, as float32, they keep their order and hardly
    ever do: `top_k` then need not look for the first among equals, which would be chosen alike.
    """
    shift = max(0, (num_latents - 1).bit_length() - 15)
    return 1 + (2**15 - 1 - (latents_d >> shift)).float() * 2**-23
