"""L0 and FVU, kept as sums so that batches and processes combine exactly."""

import torch
from torch import Tensor

from sae_dist.parallel import Mesh


class Fidelity:
    """How sparse a code is, and how much of its target it explains.

    L0 is the mean number of latents that are not zero. FVU = Σ‖y-ŷ‖² / Σ‖y-μ‖² with μ the mean
    over the whole evaluation set (Lieberum et al. 2024, section 4.1), computed as
    Σ‖y‖² - ‖Σy‖²/N in float64.
    """

    def __init__(self, d_out: int, device: torch.device) -> None:
        self._tokens = self._active = self._error = self._square = torch.zeros(
            (), dtype=torch.float64, device=device
        )
        self._sum_E = torch.zeros(d_out, dtype=torch.float64, device=device)

    def update(self, num_active: int, y_BE: Tensor, reconstruction_BE: Tensor) -> None:
        """Add a batch of tokens, on which `num_active` activations (of a slice) are not zero."""
        y_BE = y_BE.double()
        self._tokens = self._tokens + len(y_BE)
        self._active = self._active + num_active
        self._error = self._error + (y_BE - reconstruction_BE).square().sum()
        self._square = self._square + y_BE.square().sum()
        self._sum_E = self._sum_E + y_BE.sum(0)

    def result(self, mesh: Mesh) -> dict[str, float]:
        """L0, FVU and the number of tokens, over all parts of the batch and all latents."""
        tokens, error, square = (
            mesh.data.sum(v) for v in (self._tokens, self._error, self._square)
        )
        sum_E = mesh.data.sum(self._sum_E)
        active = mesh.data.sum(mesh.latent.sum(self._active))
        variation = square - sum_E.square().sum() / tokens
        return {
            "tokens": int(tokens),
            "l0": float(active / tokens),
            "fvu": float(error / variation),
        }
