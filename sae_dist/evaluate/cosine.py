"""How like each other two decoders' latents are."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.parallel import Axis

_BLOCK_VALUES = 1 << 24  # cosines at once
_MOST_EDGES = 1 << 26  # a process: 1 GiB of them


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """Of two coders' latents, one or both in slices of a latent axis.

    Attributes:
        cosine_G, latent_G: of each latent g of this slice the largest decoder cosine with another
            coder's latent, and with which of all its slices (Leask et al. 2025, fig. 7); where
            latents are signed, and so have two directions, cosines are taken without their sign.
        edges_2N: all pairs (g, f) with a cosine of at least τ; None where they are too many.
    """

    cosine_G: Tensor
    latent_G: Tensor
    edges_2N: Tensor | None


def compare_decoders(
    W_GE: Tensor,
    others_FE: Tensor,
    tau: float,
    axis: Axis,
    first_row: int = 0,
    *,
    are_signed: bool = False,
) -> Similarity:
    """Compare this slice's rows, counted from `first_row`, with those of all slices of the others.

    These come by in turn. All cosines are computed once, in blocks; called by all processes of the
    axis together.
    """
    cosine_G = W_GE.new_full((len(W_GE),), -torch.inf)
    latent_G = torch.zeros_like(cosine_G, dtype=torch.int64)
    edges, num_edges = [latent_G.new_zeros(2, 0)], 0
    for rows, first, block_gf in _cosines(W_GE, others_FE, axis):
        block_gf = block_gf.abs() if are_signed else block_gf
        best_g, where_g = block_gf.max(1)
        is_nearer_g = best_g > cosine_G[rows]  # of equals the first
        cosine_G[rows] = torch.where(is_nearer_g, best_g, cosine_G[rows])
        latent_G[rows] = torch.where(is_nearer_g, where_g + first, latent_G[rows])
        if num_edges <= _MOST_EDGES:
            g, f = (block_gf >= tau).nonzero(as_tuple=True)
            edges.append(torch.stack([g + rows.start + first_row, f + first]))
            num_edges += len(g)
    too_many = axis.all_reduce(torch.tensor(num_edges > _MOST_EDGES, device=W_GE.device).int())
    return Similarity(cosine_G, latent_G, None if too_many else torch.cat(edges, 1))


def _cosines(W_GE: Tensor, others_FE: Tensor, axis: Axis) -> Iterator[tuple[slice, int, Tensor]]:
    """Block by block: which rows of W, the number of the first of the others, and the cosines."""
    height = max(1, _BLOCK_VALUES // len(others_FE))
    for number, slice_fE in enumerate(axis.each_slice(normalize(others_FE.detach(), dim=1))):
        for top in range(0, len(W_GE), height):
            rows = slice(top, min(top + height, len(W_GE)))
            unit_gE = normalize(W_GE.detach()[rows], dim=1)
            yield rows, number * len(others_FE), unit_gE @ slice_fE.T
