"""How long activations are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sae_dist.parallel import Mesh


class MeanNorm:
    """The mean of ‖x‖ over tokens, at each of some sites."""

    def __init__(self, sites: Sequence[str], device: torch.device) -> None:
        self._norms = {s: torch.zeros((), dtype=torch.float64, device=device) for s in sites}
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, acts: Mapping[str, Tensor], measured_NS: Tensor) -> None:
        """Add the measured tokens of some sequences [N, S, D]."""
        self._tokens += measured_NS.sum().to(self._tokens.device)
        for site, sum_of_norms in self._norms.items():
            acts_BD = acts[site][measured_NS].to(sum_of_norms.device).double()
            sum_of_norms += acts_BD.norm(dim=1).sum()

    def result(self, mesh: Mesh) -> dict[str, float]:
        """By site; called by all processes together."""
        tokens = mesh.data.all_reduce(self._tokens)
        return {s: float(mesh.data.all_reduce(norms) / tokens) for s, norms in self._norms.items()}
