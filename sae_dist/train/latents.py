"""What training remembers of each latent: how long it has been silent, and how often it fired."""

import torch
from torch import Tensor

from sae_dist.kernels import dispatch as kernels


class LatentCounters:
    """Counters of the latents a coder holds [F], equal on every part of the batch.

    Attributes:
        silent_F: tokens since each latent last fired, int64.
        fired_F: tokens on which it fired since `restart_window`, int64.
        window_tokens: how many tokens that window has (0-dim, int64).
    """

    def __init__(self, num_held: int, device: torch.device) -> None:
        self.silent_F = torch.zeros(num_held, dtype=torch.int64, device=device)
        self.fired_F = torch.zeros(num_held, dtype=torch.int64, device=device)
        self.window_tokens = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, fired_F: Tensor, num_tokens: int, skip: Tensor) -> None:
        """Add a global batch in which latent f fired on `fired_F[f]` of `num_tokens` tokens, unless
        it is to be skipped (0-dim, bool).
        """
        counters = self.silent_F, self.fired_F, self.window_tokens
        kernels.count_fired(*counters, fired_F, num_tokens, skip)

    def dead(self, after_tokens: int) -> Tensor:
        """Which latents have not fired in `after_tokens` tokens or more: bool [F]."""
        return self.silent_F >= after_tokens

    def restart_window(self) -> None:
        """Forget the firing counts, not the silences."""
        self.fired_F.zero_()
        self.window_tokens.zero_()
