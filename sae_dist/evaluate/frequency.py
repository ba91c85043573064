"""How often each latent fires."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import FREQUENCY_EDGES, frequency_histogram
from sae_dist.parallel import Mesh


class FiringFrequency:
    """The share of tokens on which each latent is active (Lieberum et al. 2024, fig. 5)."""

    def __init__(self, num_held: int, device: torch.device) -> None:
        self._fired_F = torch.zeros(num_held, dtype=torch.int64, device=device)
        self._tokens = 0

    def update(self, fired_F: Tensor, num_tokens: int) -> None:
        """Add a batch of tokens, on `fired_F[f]` of which latent f is active."""
        self._fired_F += fired_F
        self._tokens += num_tokens

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """The histogram of log₁₀ frequencies over all latents, and the share that never fired."""
        fired_F = mesh.data.sum(self._fired_F)
        tokens = mesh.data.sum(torch.tensor(self._tokens, device=fired_F.device))
        histogram = frequency_histogram(fired_F, int(tokens))
        never, *counts = mesh.latent.sum(histogram).tolist()
        return {
            "dead_share": never / (never + sum(counts)),
            "firing_frequency": {"edges_log10": FREQUENCY_EDGES, "never": never, "counts": counts},
        }
