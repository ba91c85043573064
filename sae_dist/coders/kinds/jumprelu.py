"""JumpReLU: a latent fires above a threshold of its own, which is trained (Rajamanoharan et al.
2024b; Lieberum et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist import kernels
from sae_dist.coders.config import CoderConfig, FiresBy, TensorSpec
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries
    from sae_dist.coders.losses import Totals
    from sae_dist.coders.passes import DeadLatents
    from sae_dist.kernels import DensePass, SparsePattern

_DENSE_SHARE = 8  # beyond one entry in so many, dense arithmetic is faster than sparse
_L0_UNKNOWN = 50.0  # Gemma Scope's at λ = 6e-4 (Lieberum et al. 2024, figure 5)


@dataclass(kw_only=True)
class JumpReLU(CoderConfig):
    """A latent fires above its threshold θ, which begins at `initial_threshold` and is trained
    through a kernel of width `bandwidth`.

    The loss is the mean squared error and λ = `sparsity_coefficient` times the mean L0, or with
    `target_l0` λ times (2/L0*) (L0 - L0*)², Gemma Scope 2's, here of the batch's mean L0.
    """

    title = "JumpReLU"
    fires_by = FiresBy.thresholds
    begins_at_data = False

    kind: str = field(default="jumprelu", init=False)
    bandwidth: float = setting(0.001, above=0)
    initial_threshold: float = setting(0.001, min=0)
    sparsity_coefficient: float = setting(0.0006, min=0)
    target_l0: float | None = setting(None, above=0)

    def tensors(self) -> dict[str, TensorSpec]:
        return {"threshold": TensorSpec(has_latents=True, is_trained=True)}

    def initialise(self, coder: Coder) -> None:
        _threshold(coder).fill_(self.initial_threshold)

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
        limit = len(x_BD) * len(coder.W_enc) // _DENSE_SHARE
        floor_F = _threshold(coder) - self.bandwidth / 2
        room = coder.room("window")
        were_too_many = (room.num_found() or 0) > limit
        found = kernels.threshold_candidates(x_BD, coder.encoder(), floor_F, limit, room)
        is_counted = found is None or found[0].num_lost is None
        return found if is_counted or not were_too_many else None

    def activate(self, coder: Coder, code: SparsePattern, z_N: Tensor) -> tuple[Tensor, Tensor]:
        threshold_N = _threshold(coder)[code.index_N]
        num_active = kernels.step(z_N, threshold_N, self.bandwidth).sum()
        return kernels.jumprelu(z_N, threshold_N, self.bandwidth), num_active

    def dense_pass(self, coder: Coder, x_BD: Tensor, centre_D: Tensor) -> DensePass:
        weights = coder.W_enc, coder.b_enc, centre_D, _threshold(coder), coder.W_dec
        return kernels.dense_jumprelu(x_BD, *weights, self.bandwidth)

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        return kernels.all_above(x_BD, coder.encoder(), _threshold(coder).to(x_BD.dtype))

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        return kernels.jumprelu(z_BF, _threshold(coder), self.bandwidth)

    @property
    def penalty(self) -> float:
        return self.sparsity_coefficient

    def loss_parts(
        self, totals: Totals, sparsity_coefficient: float, dead: DeadLatents
    ) -> dict[str, Tensor]:
        return {
            "reconstruction": totals.sums["error"] / totals.num_rows,
            "sparsity": sparsity_coefficient * self._sparsity(totals.l0),
        }

    def _sparsity(self, l0: Tensor) -> Tensor:
        """Mean ‖f‖₀ (Rajamanoharan et al. 2024b, eq. 9), or its distance from the target."""
        target = self.target_l0
        return l0 if target is None else (2 / target) * (l0 - target) ** 2

    def after_step(self, coder: Coder, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        _threshold(coder).data.clamp_min_(0.0)

    def logged(self, coder: Coder) -> dict[str, Tensor]:
        own_1F = _threshold(coder).detach()[None]
        thresholds_F = coder.collectives.all_gather_latents(own_1F)[0].double()
        return {f"threshold/p{p}": thresholds_F.quantile(p / 100) for p in (10, 50, 90)}

    @property
    def expected_l0(self) -> float:
        return _L0_UNKNOWN if self.target_l0 is None else self.target_l0


def _threshold(coder: Coder) -> Tensor:
    return coder.get_parameter("threshold")
