"""How like each other two decoders' latents are."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK_VALUES = 1 << 24  # cosines at once


class Nearest(NamedTuple):
    """Of each latent of one coder the largest decoder cosine with another's, and with which."""

    cosine_G: Tensor
    latent_G: Tensor


def nearest(W_GE: Tensor, others_FE: Tensor) -> Nearest:
    """The maximum of cos(w_g, v_f) over f for each g (Leask et al. 2025, fig. 7), in blocks."""
    best = [Nearest(*block_gF.max(1)) for _, block_gF in _cosines(W_GE, others_FE)]
    return Nearest(*(torch.cat(parts) for parts in zip(*best, strict=True)))


def alike(W_GE: Tensor, others_FE: Tensor, least: float) -> Tensor:
    """All pairs (g, f) with a cosine of at least `least` [2, pairs]."""
    pairs = []
    for first, block_gF in _cosines(W_GE, others_FE):
        g, f = (block_gF >= least).nonzero(as_tuple=True)
        pairs.append(torch.stack([g + first, f]))
    return torch.cat(pairs, 1)


def _cosines(W_GE: Tensor, others_FE: Tensor) -> Iterator[tuple[int, Tensor]]:
    others_FE = normalize(others_FE.detach(), dim=1)
    height = max(1, _BLOCK_VALUES // len(others_FE))
    for first in range(0, len(W_GE), height):
        yield first, normalize(W_GE.detach()[first : first + height], dim=1) @ others_FE.T
