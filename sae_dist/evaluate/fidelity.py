"""How sparse a code is, and how much of its target it explains."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import ROUNDING, total_variance
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratio
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

    The last two depend on `batch_tokens`, and are what others report, not what to compare by.
    What divides by a variance of 0 (up to rounding) is None: of targets that are all equal, of
    batches of one token each, and the last one of any token that is its batch's mean.
    """

    def __init__(self, d_out: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._tokens, self._active, self._error, self._square = (zeros() for _ in range(4))
        self._within, self._ratios, self._without = zeros(), zeros(), zeros()
        self._sum_E, self._error_sum_E = zeros(d_out), zeros(d_out)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens; they count as one batch."""
        if not len(seen):
            return
        moments = seen.moments
        self._tokens += len(seen)
        self._active += len(seen.active[1])
        self._error += moments.error_B.sum()
        self._square += moments.square_B.sum()
        within_B = moments.within_B.where(moments.within_B > ROUNDING * moments.square_B, 0.0)
        self._within += within_B.sum()
        self._ratios += (moments.error_B / within_B).where(within_B > 0, 0.0).sum()
        self._without += (within_B == 0).sum()
        self._sum_E += moments.sum_E
        self._error_sum_E += moments.error_sum_E

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """L0, FVU and its variants, and the number of tokens."""
        total = mesh.data.all_reduce
        tokens, error, square = map(total, (self._tokens, self._error, self._square))
        within, ratios, without = map(total, (self._within, self._ratios, self._without))
        sum_E, error_sum_E = (
            mesh.data.all_reduce(self._sum_E),
            mesh.data.all_reduce(self._error_sum_E),
        )
        active = mesh.data.all_reduce(mesh.latent.all_reduce(self._active))
        variation = total_variance(torch.cat([sum_E, square[None]]), tokens)
        varying_error = error - error_sum_E.square().sum() / tokens
        return {
            "tokens": int(tokens),
            "l0": ratio(active, tokens),
            "fvu": ratio(error, variation),
            "variance_explained": ratio(variation - error, variation),
            "fvu_variants": {
                "error_variance": ratio(varying_error, variation),
                "batch_mean": ratio(error, within),
                "token_mean": None if without else ratio(ratios, tokens),
            },
        }
