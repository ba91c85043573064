"""How often each latent fires."""

from typing import Any

import torch

from sae_dist.coders import FREQUENCY_EDGES, frequency_histogram
from sae_dist.evaluate.output import CoderOutput
from sae_dist.parallel import Mesh

_DENSE = {"above_1_percent": 0.01, "above_10_percent": 0.1}


class FiringFrequency:
    """The share of tokens on which each latent is active (Lieberum et al. 2024, fig. 5)."""

    def __init__(self, num_held: int, device: torch.device) -> None:
        self._fired_F = torch.zeros(num_held, dtype=torch.int64, device=device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        code, _ = seen.active
        self._fired_F += code.count_by_latent()
        self._tokens += len(seen)

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """The shares of latents that never fired, that fired on more than 1 and 10 % of tokens, and
        the histogram of log₁₀ frequencies over all latents.
        """
        fired_F = mesh.data.all_reduce(self._fired_F)
        tokens = int(mesh.data.all_reduce(self._tokens))
        histogram = frequency_histogram(fired_F, tokens)
        above = torch.stack([(fired_F > share * tokens).sum() for share in _DENSE.values()])
        dense = mesh.latent.all_reduce(above).tolist()
        never, *counts = mesh.latent.all_reduce(histogram).tolist()
        num_latents = never + sum(counts)
        return {
            "dead_share": never / num_latents,
            **{f"share_{n}": c / num_latents for n, c in zip(_DENSE, dense, strict=True)},
            "firing_frequency": {"edges_log10": FREQUENCY_EDGES, "never": never, "counts": counts},
        }
