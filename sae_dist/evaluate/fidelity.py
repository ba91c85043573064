"""How sparse a code is, and how much of its target it explains."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.evaluate.seen import Seen
from sae_dist.evaluate.summary import finite
from sae_dist.parallel import Mesh


class Fidelity:
    """L0 and FVU, with the other figures that go under these names elsewhere.

    - `l0`: the mean number of latents that are not zero.
    - `fvu` = Σ‖y-ŷ‖² / Σ‖y-μ‖², μ the mean over the whole evaluation set (Lieberum et al. 2024,
      section 4.1), with Σ‖y-μ‖² = Σ‖y‖² - ‖Σy‖²/N in float64.
    - `variance_explained` = 1 - `fvu`: a meta-SAE's figure (Leask et al. 2025, section 5).
    - `fvu_variants.error_variance` = Σ‖e-ē‖² / Σ‖y-μ‖², e = y-ŷ, ē its mean: dictionary_learning's,
      blind to a constant bias.
    - `fvu_variants.batch_mean` = Σ‖y-ŷ‖² / Σ‖y-ȳ‖², ȳ the mean of the token's batch: sparsify's.
    - `fvu_variants.token_mean`: the mean over tokens of ‖y-ŷ‖² / ‖y-ȳ‖², SAELens' "legacy" one.

    The last two depend on `batch_tokens`, and are what others report, not what to compare by. A
    batch of one token is its own mean: then the last is None.
    """

    def __init__(self, d_out: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._tokens, self._active, self._error, self._square = (zeros() for _ in range(4))
        self._within, self._ratios = zeros(), zeros()
        self._sum_E, self._error_sum_E = zeros(d_out), zeros(d_out)

    def update(self, seen: Seen) -> None:
        """Add some tokens; they count as one batch."""
        if not len(seen):
            return
        moments = seen.moments
        self._tokens += len(seen)
        self._active += len(seen.active[1])
        self._error += moments.error_B.sum()
        self._square += moments.square_B.sum()
        self._within += moments.within_B.sum()
        self._ratios += (moments.error_B / moments.within_B).sum()
        self._sum_E += moments.sum_E
        self._error_sum_E += moments.error_sum_E

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """L0, FVU and its variants, and the number of tokens."""
        tokens, error, square, within, ratios = (
            mesh.data.sum(v)
            for v in (self._tokens, self._error, self._square, self._within, self._ratios)
        )
        sum_E, error_sum_E = mesh.data.sum(self._sum_E), mesh.data.sum(self._error_sum_E)
        active = mesh.data.sum(mesh.latent.sum(self._active))
        variation = square - sum_E.square().sum() / tokens
        return {
            "tokens": int(tokens),
            "l0": float(active / tokens),
            "fvu": float(error / variation),
            "variance_explained": float(1 - error / variation),
            "fvu_variants": {
                "error_variance": float((error - error_sum_E.square().sum() / tokens) / variation),
                "batch_mean": finite(error / within),
                "token_mean": finite(ratios / tokens),
            },
        }
