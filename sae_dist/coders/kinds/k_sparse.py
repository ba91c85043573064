"""What kinds have in common that are told k: AuxK and a second pass with more latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from sae_dist import coders
from sae_dist.coders.config import CoderConfig
from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Sums
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import Message, StepShape
    from sae_dist.coders.passes import DeadLatents


@dataclass(kw_only=True)
class KSparse(CoderConfig):
    """`k` latents fire a row; from `initial_k` on it goes to that in a line, in `k_anneal_steps`.
    The loss is the FVU, with `multi_topk` also FVU(4k)/8.

    `aux_coefficient` weighs AuxK over the `aux_k` strongest latents that are dead (Gao et al. 2024,
    section 4.3 and appendix A.2).
    """

    k: int = setting(32, min=1)
    initial_k: int | None = setting(None, min=1)
    k_anneal_steps: int = setting(1000, min=1)
    aux_k: int = setting(512, min=1)
    aux_coefficient: float = setting(0.0, min=0)
    multi_topk: bool = False

    def check(self) -> None:
        super().check()
        for name in ("initial_k", "k"):
            if (getattr(self, name) or 0) > self.num_latents:
                raise UserError(
                    f"coder.{name}={getattr(self, name):g}; expected 1 to "
                    f"coder.num_latents={self.num_latents}; lower it"
                )

    def at_step(self, step: int) -> Self:
        now, left = super().at_step(step), 1 - step / self.k_anneal_steps
        if self.initial_k is None:
            return now
        if left <= 0:
            return replace(now, initial_k=None)
        return replace(now, k=round(self.k + left * (self.initial_k - self.k)))

    def unfinished(self, num_steps: int) -> Iterator[tuple[str, str]]:
        if self.initial_k and self.k_anneal_steps >= num_steps:
            k = self.at_step(num_steps - 1).k
            yield f"coder.k_anneal_steps={self.k_anneal_steps}", f"k ends at {k:g}"

    @property
    def most_k(self) -> int:
        """The k that is searched for: the largest that there will be, so that shapes are few."""
        return max(self.k, self.initial_k or 0)

    @property
    def label(self) -> str:
        return f"k{self.k:g}"

    @property
    def aim(self) -> dict[str, float]:
        return {"k": int(self.k) if self.k == int(self.k) else self.k}

    @property
    def unread(self) -> tuple[str, ...]:
        aux = () if self.num_aux else ("aux_k",)
        return aux if self.initial_k else (*aux, "k_anneal_steps")

    @property
    def num_aux(self) -> int:
        return self.aux_k if self.aux_coefficient else 0

    def has_further_passes(self, *, has_dead: bool) -> bool:
        return self.multi_topk or (has_dead and self.num_aux > 0)

    def widened(self) -> Self:
        """The same with 4k, of which `multi_topk` makes its second pass."""
        k = min(4 * self.k, self.num_latents)
        return replace(self, k=k, initial_k=None, levels=None, random_levels=None)

    def strength(self, z: Tensor) -> Tensor:
        """By what latents are ranked, positive where they may fire."""
        return z

    def further_sums(self, coder: Coder, x_BD: Tensor, dead: DeadLatents) -> Sums:
        wide = coders.sparse_pass(coder, x_BD, self.widened()) if self.multi_topk else None
        aux = None
        if self.num_aux and dead.at_most:  # last: autograd adds to its few rows in place
            aux = coders.dead_pass(coder, x_BD, dead, self.aux_k, self.strength)

        def sums(y_BE: Tensor, error_BE: Tensor) -> dict[str, Tensor]:
            found = {}
            if wide is not None:
                (decoded_BE,) = wide.decoded()
                wide_BE = coder.assemble(decoded_BE, x_BD)
                found["multi_topk"] = coders.square_sum(y_BE - wide_BE)
            if aux is not None:
                found["aux_k"] = coders.square_sum(error_BE - aux())
                found["aux_k_target"] = coders.moments(error_BE)
            return found

        return sums

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        sums, scale = totals.sums, totals.scale
        parts = {"reconstruction": totals.error / scale}
        if "multi_topk" in sums:
            parts["multi_topk"] = sums["multi_topk"] / scale / 8
        if "aux_k" in sums:
            left = coders.total_variance(sums["aux_k_target"], totals.num_rows)
            aux = sums["aux_k"] / left.masked_fill(left == 0, float("inf"))  # nothing to explain
            share = (dead.count.double() / (self.num_layers * self.aux_k)).clamp_max(1.0)
            parts["aux_k"] = self.aux_coefficient * share * aux
        return parts

    @property
    def expected_l0(self) -> float:
        return float(self.most_k)

    @property
    def work(self) -> tuple[int, float]:
        return (2, 5.0 * self.k) if self.multi_topk else (1, float(self.k))

    def further_messages(self, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
        if self.multi_topk:
            yield from self.widened().messages(step)
            yield from step.decoded()
        if self.num_aux and has_dead:
            yield from [step.candidates(self.aux_k)] * self.num_layers
            yield from step.decoded()

    def num_further_sums(self, step: StepShape, *, has_dead: bool) -> int:
        aux = 1 + (step.E + 1)  # squared error, and the moments of what is to be explained
        return self.multi_topk + (aux if self.num_aux and has_dead else 0)
