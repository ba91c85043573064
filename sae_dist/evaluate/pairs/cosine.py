"""How like each other two decoders' latents are."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.parallel import Axis

_BLOCK_VALUES = 1 << 24  # cosines at once


class Nearest(NamedTuple):
    """Of each latent of one coder the largest decoder cosine with another's, and with which."""

    cosine_G: Tensor
    latent_G: Tensor


def nearest(W_GE: Tensor, others_FE: Tensor, axis: Axis) -> Nearest:
    """The maximum of cos(w_g, v_f) over f for each g (Leask et al. 2025, fig. 7), in blocks.

    Both are slices of a latent axis: g counts the latents of this one, f those of all slices, which
    come by one after the other.
    """
    cosine_G = W_GE.new_full((len(W_GE),), -torch.inf)
    latent_G = torch.zeros_like(cosine_G, dtype=torch.int64)
    for rows, first, block_gf in _cosines(W_GE, others_FE, axis):
        best_g, where_g = block_gf.max(1)
        is_nearer_g = best_g > cosine_G[rows]  # of equals the first
        cosine_G[rows] = torch.where(is_nearer_g, best_g, cosine_G[rows])
        latent_G[rows] = torch.where(is_nearer_g, where_g + first, latent_G[rows])
    return Nearest(cosine_G, latent_G)


def alike(W_GE: Tensor, others_FE: Tensor, least: float, axis: Axis) -> Tensor:
    """All pairs (g, f) with a cosine of at least `least` [2, pairs], counted as in `nearest`."""
    pairs = []
    for rows, first, block_gf in _cosines(W_GE, others_FE, axis):
        g, f = (block_gf >= least).nonzero(as_tuple=True)
        pairs.append(torch.stack([g + rows.start, f + first]))
    return torch.cat(pairs, 1)


def _cosines(W_GE: Tensor, others_FE: Tensor, axis: Axis) -> Iterator[tuple[slice, int, Tensor]]:
    """Block by block: which rows of W, the number of the first of the others, and the cosines."""
    height = max(1, _BLOCK_VALUES // len(others_FE))
    for number, slice_fE in enumerate(axis.each_slice(normalize(others_FE.detach(), dim=1))):
        for top in range(0, len(W_GE), height):
            rows = slice(top, min(top + height, len(W_GE)))
            unit_gE = normalize(W_GE.detach()[rows], dim=1)
            yield rows, number * len(others_FE), unit_gE @ slice_fE.T
