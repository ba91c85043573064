"""Firing frequencies as a histogram, which parts can be added up."""

import torch
from torch import Tensor

FREQUENCY_EDGES = [-7.0 + 0.25 * i for i in range(29)]
"""log₁₀ edges of the histogram: frequencies from 10⁻⁷ to 1."""


def frequency_histogram(fired_F: Tensor, num_tokens: int | Tensor) -> Tensor:
    """Latents by log₁₀ of the share of tokens on which they fired: int64 [1 + bins].

    Entry 0 counts those that never fired; frequencies below the edges count in the first bin.
    """
    edges = torch.tensor(FREQUENCY_EDGES, dtype=torch.float64, device=fired_F.device)
    log10 = (fired_F[fired_F > 0].double() / num_tokens).log10()
    bins = torch.bucketize(log10, edges).clamp(1, len(edges) - 1) - 1
    counts = torch.bincount(bins, minlength=len(edges) - 1)
    return torch.cat([(fired_F == 0).sum()[None], counts])
