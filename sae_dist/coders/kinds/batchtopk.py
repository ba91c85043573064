"""BatchTopK: the k·B largest pre-activations of a batch of B rows fire (Bussmann et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sae_dist import coders, kernels
from sae_dist.coders.config import FiresBy, TensorSpec
from sae_dist.coders.kinds.k_sparse import KSparse
from sae_dist.common.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import Entries
    from sae_dist.coders.messages import Message, StepShape

_EMA = 0.999
_LATE = 10  # of the batches so far about the last tenth count, while they are few


@dataclass(kw_only=True)
class BatchTopK(KSparse):
    """The `k` a row largest positive pre-activations of the global batch fire, however they are
    spread over its rows; at inference all above one threshold. `k` may be a fraction.
    """

    title = "BatchTopK"
    fires_by = FiresBy.threshold

    kind: str = field(default="batchtopk", init=False)
    k: float = setting(32.0, above=0)  # type: ignore[assignment]  # of no row by itself

    def tensors(self) -> dict[str, TensorSpec]:
        return {"threshold": TensorSpec(has_latents=False, is_trained=False)}

    def find(self, coder: Coder, x_BD: Tensor) -> Entries:
        return coders.batch_top_k_code(coder, x_BD, self.k)

    def infer(self, coder: Coder, x_BD: Tensor) -> Entries:
        floor_F = self._threshold(coder, x_BD).expand(len(coder.W_enc))
        return kernels.all_above(x_BD, coder.encoder(), floor_F)

    def select(self, coder: Coder, z_BF: Tensor) -> Tensor:
        if coder.training:
            return z_BF.where(coders.batch_top_k(z_BF, self.k, coder.collectives), 0.0)
        return z_BF.where(z_BF > self._threshold(coder, z_BF), 0.0)

    def _threshold(self, coder: Coder, like: Tensor) -> Tensor:
        return coder.get_buffer("threshold").to(like.dtype)

    def after_step(self, coder: Coder, least: Callable[[], Tensor], num_updates: Tensor) -> None:
        """Follow E[least activation that is kept] (Bussmann et al. 2024, eq. 8).

        A running mean with decay 0.999, and in a run's first ten thousand batches with a shorter
        memory: thresholds fall while a coder learns, and the mean of all would be above them.
        """
        import torch  # only here, as settings are read without it

        threshold = coder.get_buffer("threshold")
        found = coder.collectives.all_min(least()).double()
        is_found = found.isfinite()
        weight = (_LATE / num_updates.double()).clamp(1 - _EMA, 1.0)
        threshold.copy_(torch.where(is_found, threshold.lerp(found, weight), threshold))

    def logged(self, coder: Coder) -> dict[str, Tensor]:
        return {"threshold/inference": coder.get_buffer("threshold")}

    def messages(self, step: StepShape) -> Iterator[Message]:
        return step.batch_selection()

    def messages_after_step(self, step: StepShape) -> Iterator[Message]:
        yield step.least_activation()
