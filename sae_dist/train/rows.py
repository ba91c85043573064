"""The rows of one batch, made once for all the rungs of a ladder that need the same."""

from collections.abc import Callable

import torch
from torch import Tensor

from sae_dist.coders import Scale
from sae_dist.common.joint import joined
from sae_dist.parallel import Mesh


class SharedRows:
    """One batch at some sites; what rungs ask of it alike is gathered, cast and divided once.

    Attributes:
        acts: raw activations [b, width] by site, as stored, on the rungs' device; b is the global
            batch's tokens divided by the world.

    Args:
        dtype: of the rungs' weights.
    """

    def __init__(self, acts: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.acts, self._dtype = acts, dtype
        self._coming: dict[tuple[str, int], Callable[[], Tensor]] = {}
        self._made: dict[tuple[str, float, int], Tensor] = {}

    def start_gather(self, site: str, mesh: Mesh) -> None:
        """Begin to gather what `normalised` will be asked for; called by all processes alike."""
        key = site, mesh.latent.size
        if key not in self._coming:
            self._coming[key] = mesh.latent.start_all_gather(joined(self.acts, site))

    def normalised(self, site: str, scale: Scale, mesh: Mesh) -> Tensor:
        """The rows [B, width] that a process of `mesh` works on, divided by `scale`.

        The tensor is shared: nobody may change it. Rows cross the latent axis as they are stored,
        in half the bytes for 16-bit formats, and the axis of the first to ask counts them.
        """
        key = site, id(scale) if isinstance(scale, Tensor) else scale, mesh.latent.size
        if key not in self._made:
            self.start_gather(site, mesh)
            self._made[key] = self._coming.pop((site, mesh.latent.size))().to(self._dtype) / scale
        return self._made[key]
