"""Cross entropies of the parts of conversations, with and without a coder in the way."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_dist.evaluate.transfer.conversations import PARTS, Conversations
from sae_dist.evaluate.transfer.rescaled import Rescaled
from sae_dist.lm import LM, next_token_loss_NS, splice
from sae_dist.parallel import Mesh

Variant = tuple[str, str]  # a coder's name, and "" or "_rescaled"


class LossByPart:
    """Mean cross entropy, in nats, of the predicted tokens of each part.

    A coder's output takes the place of every measured token's activation, in prompt and rollout
    alike. A token counts to the part it is in, wherever it is predicted from: the first of a
    rollout, which the model's prefix predicts, is the rollout's.
    """

    def __init__(self, lm: LM, coders: Mapping[Variant, Rescaled], device: torch.device) -> None:
        self._lm, self._coders = lm, coders
        self._tokens_P = torch.zeros(len(PARTS), dtype=torch.float64, device=device)
        self._clean_P = torch.zeros_like(self._tokens_P)
        self._spliced_P = {name: torch.zeros_like(self._tokens_P) for name in coders}

    @torch.no_grad()
    def update(self, talk: Conversations) -> None:
        """Add a batch: one forward pass clean, and one a coder."""
        self._tokens_P += talk.masks_PNS[..., 1:].sum((1, 2))
        self._clean_P += self._sums_P(talk, nullcontext())
        for name, coder in self._coders.items():
            places = coder.spliced.read, coder.spliced.write
            changed = splice(self._lm.model, *places, coder.replace, ~talk.measured_NS)
            self._spliced_P[name] += self._sums_P(talk, changed)

    def _sums_P(self, talk: Conversations, changed: AbstractContextManager[None]) -> Tensor:
        with changed:
            loss_NS = next_token_loss_NS(self._lm.model, talk.ids_NS).double()
        return loss_NS.where(talk.masks_PNS[..., 1:], 0.0).sum((1, 2))

    def result(self, mesh: Mesh) -> tuple[dict[str, float], dict[Variant, dict[str, float]]]:
        """By part the clean loss; by coder and part what it adds to that."""
        tokens_P, clean_P = (
            mesh.data.all_reduce(self._tokens_P),
            mesh.data.all_reduce(self._clean_P),
        )
        deltas = {
            name: _by_part((mesh.data.all_reduce(sums_P) - clean_P) / tokens_P)
            for name, sums_P in self._spliced_P.items()
        }
        return _by_part(clean_P / tokens_P), deltas


def _by_part(values_P: Tensor) -> dict[str, float]:
    return dict(zip(PARTS, values_P.tolist(), strict=True))
