"""ReLU with an L1 penalty, for comparison with what was trained so (Bricken et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from sae_dist import coders, kernels
from sae_dist.coders.config import CoderConfig, FiresBy
from sae_dist.coders.messages import SUM_BYTES, MeshAxis, Message
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries, Sums
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.messages import StepShape
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import SparsePattern


@dataclass(kw_only=True)
class ReLU(CoderConfig):
    """A latent fires above 0. The loss is the mean squared error and λ = `sparsity_coefficient`
    times the mean of Σ f ‖d‖ (Anthropic, April 2024).

    b_enc begins where each latent fires as often as every other on a sample, `initial_l0` a row.
    """

    title = "ReLU"
    fires_by = FiresBy.thresholds
    begins_at_data = False

    kind: str = field(default="relu", init=False)
    sparsity_coefficient: float = setting(0.1, min=0)
    initial_l0: float = setting(100.0, above=0)

    def initialise(self, coder: Coder, x_ND: Tensor) -> None:
        share = self.initial_l0 / self.num_latents
        coder.b_enc.sub_(coders.firing_thresholds(coder, x_ND, share))

    def of_layer(self, num_layers: int) -> Self:
        """The first L0 is of all layers together."""
        return replace(super().of_layer(num_layers), initial_l0=self.initial_l0 / num_layers)

    @property
    def label(self) -> str:
        return f"lambda{self.sparsity_coefficient:g}"

    def find(self, coder: Coder, x_BD: Tensor) -> Entries | None:
        floor_F = coder.b_enc.new_zeros(len(coder.b_enc))
        limit, room = len(x_BD) * len(floor_F), coder.room("positive")
        return kernels.threshold_candidates(x_BD, coder.encoder(), floor_F, limit, room)

    def activate(
        self, coder: Coder, code: SparsePattern, z_N: Tensor, x_BD: Tensor
    ) -> tuple[Tensor, Sums]:
        acts_N = z_N.relu()  # 0 where there is no entry
        l1 = (acts_N * coder.row_norms()[code.index_N]).sum()
        return acts_N, lambda y_BE, error_BE: {"active": code.num_entries(), "l1": l1}

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        return kernels.all_above(x_BD, coder.encoder(), coder.b_enc.new_zeros(len(coder.b_enc)))

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        return z_BF.relu()

    def plain(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {"threshold": tensors["b_enc"].new_zeros(len(tensors["b_enc"]))}

    @property
    def penalty(self) -> float:
        return self.sparsity_coefficient

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        l1 = totals.sum_latents(totals.sums["l1"])
        return {
            "reconstruction": totals.error / totals.num_rows,
            "sparsity": sparsity_coefficient * l1 / totals.num_rows,
        }

    @property
    def expected_l0(self) -> float:
        return self.initial_l0

    def has_further_passes(self, *, has_dead: bool) -> bool:
        return not self.unit_norm_decoder  # the norms have a gradient of all rows

    def further_messages(self, step: StepShape, *, has_dead: bool) -> Iterator[Message]:
        yield Message("price of sparsity", MeshAxis.latent, SUM_BYTES)

    def num_further_sums(self, step: StepShape, *, has_dead: bool) -> int:
        return 1
