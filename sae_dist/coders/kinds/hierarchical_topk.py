"""HierarchicalTopK: the first of the k latents reconstruct, too, so that one coder serves every
smaller k (arXiv 2505.24473).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist import coders
from sae_dist.coders.kinds.topk import TopK
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.messages import Message, StepShape
    from sae_dist.kernels import SparsePattern


@dataclass(kw_only=True)
class HierarchicalTopK(TopK):
    """The `k` largest of each row fire, and each share of them in `levels`, the largest first,
    reconstructs by itself. In a Matryoshka coder the shares are of the latents.
    """

    title = "HierarchicalTopK"
    nesting = ""

    kind: str = field(default="hierarchical_topk", init=False)
    levels: list[float] | None = setting([0.125, 0.25, 0.5], above=0, below=1)

    def _ks(self) -> list[int]:
        """How many entries of a row have each level but the last, or a lower one."""
        return [max(1, round(share * self.k)) for share in self.levels or ()]

    def level_of_entries(self, coder: Coder, code: SparsePattern, acts_N: Tensor) -> Tensor:
        collectives = coder.collectives
        later = [~coders.top_k_entries(code, acts_N, k, collectives) for k in self._ks()]
        return sum((is_later_N.long() for is_later_N in later), start=0 * code.latents_N)

    def messages(self, step: StepShape) -> Iterator[Message]:
        yield from super().messages(step)
        yield from (step.candidates(k) for k in self.at_step(0)._ks())
