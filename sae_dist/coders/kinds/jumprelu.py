"""JumpReLU: a latent fires above a threshold of its own, which is trained (Rajamanoharan et al.
2024b; Lieberum et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from sae_dist import coders, kernels
from sae_dist.coders.config import CoderConfig, FiresBy, TensorSpec
from sae_dist.coders.messages import SUM_BYTES, MeshAxis, Message
from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries, Rows, Sums
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import StepShape
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import DensePass, SparsePattern

_DENSE_SHARE = 8  # beyond one entry in so many, dense arithmetic is faster than sparse
_L0_UNKNOWN = 50.0  # Gemma Scope's at λ = 6e-4 (Lieberum et al. 2024, figure 5)
_TANH_SCALE = 4.0  # of activations of inputs whose norm is √D (Anthropic, January 2025)
_OFTEN = 0.01  # the frequency from which on it costs its square


class Sparsity(StrEnum):
    """What λ prices, a row's mean; with c = 4 √D as E‖x‖² = 1, and f̄ the batch's mean.

    `l0`: ‖f‖₀ (Rajamanoharan et al. 2024b, eq. 9). `tanh`: Σ tanh(c f ‖d‖) (Anthropic, January
    2025). `tanh_quad`: Σ f̄ (1 + f̄ / 0.01) of f̄ = mean tanh(c f ‖d‖), which prices what fires often
    (OpenMOSS).
    """

    l0 = "l0"
    tanh = "tanh"
    tanh_quad = "tanh_quad"


class TargetOf(StrEnum):
    """Whose L0 is to be the target: the `batch`'s mean, or each `token`'s."""

    batch = "batch"
    token = "token"


@dataclass(kw_only=True)
class JumpReLU(CoderConfig):
    """A latent fires above its threshold θ, which begins at `initial_threshold` and is trained
    through a kernel of width `bandwidth`. With `initial_l0` it begins where each latent fires as
    often as every other on a sample, so many a row.

    The loss is the mean squared error and λ = `sparsity_coefficient` times what `sparsity` says, or
    with `target_l0` λ times (2/L0*) (L0 - L0*)², Gemma Scope 2's, of the L0 that `target_of` says.
    `pre_act_coefficient` weighs Σ ReLU(θ - z) ‖d‖, which draws silent latents to their threshold;
    with `ste_reaches_input` the kernel's gradient moves the encoder, too (both Anthropic, 2025).
    """

    title = "JumpReLU"
    fires_by = FiresBy.thresholds
    begins_at_data = False

    kind: str = field(default="jumprelu", init=False)
    bandwidth: float = setting(0.001, above=0)
    initial_threshold: float = setting(0.001, min=0)
    initial_l0: float | None = setting(None, above=0)
    sparsity: Sparsity = Sparsity.l0
    sparsity_coefficient: float = setting(0.0006, min=0)
    target_l0: float | None = setting(None, above=0)
    target_of: TargetOf = TargetOf.batch
    pre_act_coefficient: float = setting(0.0, min=0)
    ste_reaches_input: bool = False

    def check(self) -> None:
        super().check()
        if self.target_l0 is not None and self.sparsity is not Sparsity.l0:
            raise UserError(
                f"coder.target_l0={self.target_l0:g} and coder.sparsity={self.sparsity}; expected "
                "a target of l0 alone: leave one out"
            )
        if not self._may_be_dense and self.initial_l0 is None:
            raise UserError(
                "coder.initial_l0=null; expected a number beside coder.sparsity=tanh, tanh_quad, "
                "coder.target_of=token, coder.pre_act_coefficient and coder.ste_reaches_input, "
                "whose steps are sparse from the first: set it"
            )

    @property
    def _may_be_dense(self) -> bool:
        """Whether there is a pass for steps in which most latents fire."""
        return not (
            self.sparsity is not Sparsity.l0
            or self._is_of_tokens
            or self.pre_act_coefficient
            or self.ste_reaches_input
        )

    @property
    def _is_of_tokens(self) -> bool:
        return self.target_l0 is not None and self.target_of is TargetOf.token

    @property
    def unread(self) -> tuple[str, ...]:
        idle = ("initial_threshold",) if self.initial_l0 is not None else ()
        return idle if self.target_l0 is not None else (*idle, "target_of")

    def tensors(self) -> dict[str, TensorSpec]:
        return {"threshold": TensorSpec(has_latents=True, is_trained=True)}

    def initialise(self, coder: Coder, x_ND: Tensor) -> None:
        if self.initial_l0 is None:
            _threshold(coder).fill_(self.initial_threshold)
        else:
            share = self.initial_l0 / self.num_latents
            _threshold(coder).copy_(coders.firing_thresholds(coder, x_ND, share))

    def of_layer(self, num_layers: int) -> Self:
        """The target and the first L0 are of all layers together."""
        if self._is_of_tokens:
            raise UserError(
                "coder.target_of=token of a cross-layer transcoder; expected batch: set it"
            )
        target = self.target_l0 and self.target_l0 / num_layers
        first = self.initial_l0 and self.initial_l0 / num_layers
        return replace(super().of_layer(num_layers), target_l0=target, initial_l0=first)

    @property
    def label(self) -> str:
        if self.target_l0 is not None:
            return f"l0_{self.target_l0:g}"
        return f"lambda{self.sparsity_coefficient:g}"

    @property
    def aim(self) -> dict[str, float]:
        return {} if self.target_l0 is None else {"target_l0": self.target_l0}

    def find(self, coder: Coder, x_BD: Tensor) -> Entries | None:
        """All in the kernel's window or above it; None in the first steps, where most are."""
        share = _DENSE_SHARE if self._may_be_dense else 1
        limit = len(x_BD) * len(coder.W_enc) // share
        floor_F = _threshold(coder) - self.bandwidth / 2
        room = coder.room("window")
        were_too_many = (room.num_found() or 0) > limit
        found = kernels.threshold_candidates(x_BD, coder.encoder(), floor_F, limit, room)
        is_counted = found is None or found[0].num_lost is None
        return found if is_counted or not were_too_many else None

    def activate(
        self, coder: Coder, code: SparsePattern, z_N: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Sums]:
        at_N = _threshold(coder)[code.index_N], self.bandwidth
        fires_N = kernels.step(z_N, *at_N, reaches_z=self.ste_reaches_input)
        acts_N = kernels.jumprelu(z_N, *at_N, reaches_z=self.ste_reaches_input)
        sums = {"active": fires_N.sum()}
        if self.target_l0 is not None and self._is_of_tokens:
            l0_B = coder.collectives.sum_latents(code.sum_by_row(fires_N))
            sums["l0_distance"] = (l0_B - self.target_l0).square().sum()
        if self.sparsity is not Sparsity.l0:
            scale_F = _TANH_SCALE * math.sqrt(coder.d_in) * coder.row_norms()
            sums["firing"] = code.sum_by_latent((scale_F[code.index_N] * acts_N).tanh())
        if self.pre_act_coefficient:
            above_N = (z_N - at_N[0]).relu()
            sums["above"] = (coder.row_norms()[code.index_N] * above_N).sum()
        return acts_N, lambda y_BE, error_BE: sums

    def dense_pass(self, rows: Rows, x_BD: Tensor, centre_D: Tensor) -> DensePass:
        weights = rows["W_enc"], rows["b_enc"], centre_D, rows["threshold"], rows["W_dec"]
        return kernels.dense_jumprelu(x_BD, *weights, self.bandwidth)

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        return kernels.all_above(x_BD, coder.encoder(), _threshold(coder).to(x_BD.dtype))

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        return kernels.jumprelu(z_BF, _threshold(coder), self.bandwidth)

    @property
    def penalty(self) -> float:
        return self.sparsity_coefficient

    def has_further_passes(self, *, has_dead: bool) -> bool:
        return self.pre_act_coefficient > 0 or self.sparsity is not Sparsity.l0

    def further_sums(self, coder: Coder, x_BD: Tensor, dead: DeadLatents) -> Sums:
        """Σ (θ - z) ‖d‖ over all rows and latents, which is linear; with `above` it is Σ ReLU."""
        if not self.pre_act_coefficient:
            return super().further_sums(coder, x_BD, dead)
        sum_D = coder.centred(x_BD).sum(0)
        short_F = len(x_BD) * (_threshold(coder) - coder.b_enc) - coder.W_enc @ sum_D
        short = coder.row_norms() @ short_F
        return lambda y_BE, error_BE: {"short": short}

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        sums, num_rows = totals.sums, totals.num_rows
        parts = {
            "reconstruction": totals.error / num_rows,
            "sparsity": sparsity_coefficient * self._sparsity(totals),
        }
        if self.pre_act_coefficient:
            short = totals.sum_latents(sums["short"] + sums["above"])
            parts["pre_act"] = self.pre_act_coefficient * short / num_rows
        return parts

    def _sparsity(self, totals: Totals) -> Tensor:
        """What λ prices."""
        target = self.target_l0
        if self.sparsity is not Sparsity.l0:
            often_F = totals.sums["firing"] / totals.num_rows
            dear_F = often_F if self.sparsity is Sparsity.tanh else often_F * (1 + often_F / _OFTEN)
            return totals.sum_latents(dear_F.sum())
        if target is None:
            return totals.l0
        if self._is_of_tokens:
            return (2 / target) * totals.sums["l0_distance"] / totals.num_rows
        return (2 / target) * (totals.l0 - target) ** 2

    def after_step(self, coder: Coder, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        _threshold(coder).data.clamp_min_(0.0)

    def logged(self, coder: Coder) -> dict[str, Tensor]:
        own_1F = _threshold(coder).detach()[None]
        thresholds_F = coder.collectives.all_gather_latents(own_1F)[0].double()
        return {f"threshold/p{p}": thresholds_F.quantile(p / 100) for p in (10, 50, 90)}

    @property
    def expected_l0(self) -> float:
        return max(self.target_l0 or _L0_UNKNOWN, self.initial_l0 or 0.0)

    def messages(self, step: StepShape) -> Iterator[Message]:
        if self._is_of_tokens:
            yield Message("active entries of each row", MeshAxis.latent, step.B * step.w)

    def further_messages(self, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
        if self.pre_act_coefficient:
            yield from step.centred()
            yield Message("what silent latents fall short by", MeshAxis.latent, SUM_BYTES)
        if self.sparsity is not Sparsity.l0:
            yield Message("price of sparsity", MeshAxis.latent, SUM_BYTES)

    def num_further_sums(self, step: StepShape, *, has_dead: bool) -> int:
        of_latents = step.F * (self.sparsity is not Sparsity.l0)
        return of_latents + self._is_of_tokens + 2 * (self.pre_act_coefficient > 0)


def _threshold(coder: Coder) -> Tensor:
    return coder.get_parameter("threshold")
