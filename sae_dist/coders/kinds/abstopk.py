"""AbsTopK: the k pre-activations of a row that are largest in size fire, with their sign
(arXiv 2510.00404).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sae_dist import coders, kernels
from sae_dist.coders.kinds.topk import TopK

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries


@dataclass(kw_only=True)
class AbsTopK(TopK):
    """The `k` pre-activations of each row with the largest |z| fire: one latent, two directions."""

    title = "AbsTopK"
    signed = True

    kind: str = field(default="abstopk", init=False)

    def strength(self, z: Tensor) -> Tensor:
        return z.abs()

    def find(self, coder: Coder, x_BD: Tensor) -> Entries:
        encoder = coder.encoder()
        opposite = replace(encoder, b_F=-encoder.b_F)  # -z = W (-x) - b
        up, z_n = kernels.topk_candidates(x_BD, encoder, self.most_k)
        down, opposite_m = kernels.topk_candidates(-x_BD, opposite, self.most_k)
        code, z_N = kernels.join(up.keep(z_n > 0, z_n), down.keep(opposite_m > 0, -opposite_m))
        return code.keep(coders.top_k_entries(code, z_N.abs(), self.k, coder.collectives), z_N)

    @property
    def work(self) -> tuple[int, float]:
        num_searches, num_entries = super().work
        return 2 * num_searches, num_entries
