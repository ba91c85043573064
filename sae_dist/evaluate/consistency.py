"""Whether latents fire now and then or again and again: two heuristics of one name."""

from typing import Any

import torch

from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import summary
from sae_dist.parallel import Mesh


class ConsistentActivation:
    """The consistent activation heuristic (Paulo et al. 2025, fig. 3), by its caption and its code.

    - `caption`: a latent's summed activation over the number of tokens.
    - `code`: the tokens on which it is active over the sequences in which it is, at least 1.

    Of both the mean and quantiles over the latents that fired.
    """

    def __init__(self, num_held: int, device: torch.device) -> None:
        self._sum_F = torch.zeros(num_held, dtype=torch.float64, device=device)
        self._fired_F = torch.zeros(num_held, dtype=torch.int64, device=device)
        self._sequences_F = torch.zeros_like(self._fired_F)
        self._tokens = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, seen: CoderOutput) -> None:
        """Add the tokens of whole sequences."""
        code, acts_N = seen.active
        num_latents = code.num_latents
        self._tokens += len(seen)
        self._sum_F.index_add_(0, code.latents_N, acts_N.double())
        self._fired_F += code.count_by_latent()
        together_N = seen.sequence_B[code.rows_N] * num_latents + code.latents_N
        self._sequences_F += torch.bincount(
            together_N.unique() % num_latents, minlength=num_latents
        )

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """`consistent_activation_caption` and `consistent_activation_code`."""
        sums = self._sum_F, self._fired_F, self._sequences_F
        sum_F, fired_F, sequences_F = (
            mesh.latent.all_gather(mesh.data.all_reduce(v)) for v in sums
        )
        tokens = int(mesh.data.all_reduce(self._tokens))
        alive_F = fired_F > 0
        return {
            "consistent_activation_caption": summary(sum_F[alive_F] / tokens),
            "consistent_activation_code": summary(fired_F[alive_F] / sequences_F[alive_F]),
        }
