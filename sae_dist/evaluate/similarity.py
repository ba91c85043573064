"""In which direction a reconstruction points, and how long it is: SAEBench's core figures."""

import torch

from sae_dist.evaluate.seen import Seen
from sae_dist.evaluate.summary import finite
from sae_dist.parallel import Mesh

_TINY = 1e-16  # a token of zeros has a cosine of 0


class Similarity:
    """Figures of y and ŷ token by token (Karvonen et al. 2025, core evaluation).

    - `cosine_similarity`: the mean of cos(y, ŷ).
    - `l2_norm_ratio`: the mean of ‖ŷ‖ / ‖y‖.
    - `relative_reconstruction_bias` = E‖ŷ‖² / E⟨y, ŷ⟩: less than 1 where a coder shrinks.

    None where they divide by 0: a token of zeros has no norm ratio, and zeros have no bias.
    """

    def __init__(self, device: torch.device) -> None:
        self._tokens, self._cosine, self._ratio, self._square, self._product = torch.zeros(
            5, dtype=torch.float64, device=device
        )

    def update(self, seen: Seen) -> None:
        """Add some tokens."""
        moments = seen.moments
        y_norm_B, ŷ_norm_B = moments.square_B.sqrt(), moments.reconstruction_square_B.sqrt()
        self._tokens += len(seen)
        self._cosine += (moments.product_B / (y_norm_B * ŷ_norm_B).clamp_min(_TINY)).sum()
        self._ratio += (ŷ_norm_B / y_norm_B).sum()
        self._square += moments.reconstruction_square_B.sum()
        self._product += moments.product_B.sum()

    def result(self, mesh: Mesh) -> dict[str, float | None]:
        """All three, over all tokens."""
        sums = (self._tokens, self._cosine, self._ratio, self._square, self._product)
        tokens, cosine, ratio, square, product = (mesh.data.sum(v) for v in sums)
        return {
            "cosine_similarity": finite(cosine / tokens),
            "l2_norm_ratio": finite(ratio / tokens),
            "relative_reconstruction_bias": finite(square / product),
        }
