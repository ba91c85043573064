"""How well a coder reconstructs at each position of a sequence."""

from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import total_variance
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratios
from sae_dist.parallel import Mesh


class ReconstructionByPosition:
    """The reconstruction loss of every position, not aggregated (Lieberum et al. 2024, fig. 3).

    `mse[s]` is the mean of ‖y-ŷ‖² over the tokens at position s, and `fvu[s]` that over the mean of
    ‖y-μ‖² at *all* positions: their mean over tokens is the FVU. Positions without a token have
    null, and all have no `fvu` where the targets are all equal.
    """

    def __init__(self, num_positions: int, d_out: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._tokens_S, self._error_S = zeros(num_positions), zeros(num_positions)
        self._square, self._sum_E = zeros(), zeros(d_out)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        moments = seen.moments
        self._tokens_S.index_add_(0, seen.position_B, torch.ones_like(moments.error_B))
        self._error_S.index_add_(0, seen.position_B, moments.error_B)
        self._square += moments.square_B.sum()
        self._sum_E += moments.sum_E

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """`by_position`: a list a figure, an entry a position."""
        tokens_S, error_S, square, sum_E = (
            mesh.data.all_reduce(v)
            for v in (self._tokens_S, self._error_S, self._square, self._sum_E)
        )
        tokens = tokens_S.sum()
        variance = total_variance(torch.cat([sum_E, square[None]]), tokens) / tokens
        return {
            "by_position": {
                "tokens": tokens_S.long().tolist(),
                "mse": ratios(error_S, tokens_S),
                "fvu": ratios(error_S, tokens_S * variance),
            }
        }
