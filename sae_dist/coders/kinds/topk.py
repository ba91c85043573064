"""TopK: the k largest pre-activations of a row fire (Gao et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist import coders, kernels
from sae_dist.coders.config import FiresBy
from sae_dist.coders.kinds.k_sparse import KSparse

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries
    from sae_dist.coders.messages import Message, StepShape


@dataclass(kw_only=True)
class TopK(KSparse):
    """The `k` largest positive pre-activations of each row fire."""

    title = "TopK"
    fires_by = FiresBy.rank

    kind: str = field(default="topk", init=False)

    def find(self, coder: Coder, x_BD: Tensor) -> Entries:
        code, z_N = kernels.topk_candidates(x_BD, coder.encoder(), self.most_k)
        if code.num_each == self.k and coder.collectives.num_slices == 1:
            return code, z_N  # these are they
        return code.keep(coders.top_k_entries(code, z_N, self.k, coder.collectives), z_N)

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        return z_BF.where(coders.top_k(self.strength(z_BF), self.k, coder.collectives), 0.0)

    @property
    def has_fixed_shapes(self) -> bool:
        largest = self.widened().k if self.multi_topk else self.most_k
        changes = self.num_aux or self.num_levels > 1 or self.most_k != self.k
        return largest <= kernels.MOST_RANKED and not changes and not self.form.spans_sites

    def messages(self, step: StepShape) -> Iterator[Message]:
        yield step.candidates(self.k)
