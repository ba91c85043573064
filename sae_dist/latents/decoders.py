"""Latents whose decoder rows point the same way."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.parallel import Axis

_ROWS, _COLUMNS = 1 << 10, 1 << 14  # cosines at once


@torch.no_grad()
def nearest(
    rows_nE: Tensor,
    others_FE: Tensor,
    num: int,
    axis: Axis,
    *,
    first: int | None = None,
    are_signed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Of each row the `num` others with the greatest cosine, int64 [n, num], and it, float32.

    Called by all processes of the axis together, each with its slice of the others, which come by
    in turn. Where there are fewer the number is -1 and the cosine 0.

    Args:
        first: the first row's number where the others are the same latents: none is its own
            neighbour.
        are_signed: latents have two directions: the cosine's size counts.
    """
    best_nK = rows_nE.new_full((len(rows_nE), num), -torch.inf, dtype=torch.float32)
    cosine_nK = torch.zeros_like(best_nK)
    number_nK = torch.full_like(best_nK, -1, dtype=torch.int64)
    for place, slice_fE in enumerate(axis.each_slice(others_FE)):
        for left in range(0, len(slice_fE), _COLUMNS):
            unit_fE = normalize(slice_fE[left : left + _COLUMNS].float(), dim=1)
            numbers_f = torch.arange(len(unit_fE), device=unit_fE.device)
            numbers_f += place * len(others_FE) + left
            for top in range(0, len(rows_nE), _ROWS):
                own = slice(top, top + _ROWS)
                new_gf = normalize(rows_nE[own].detach().float(), dim=1) @ unit_fE.T
                ranked_gf = new_gf.abs() if are_signed else new_gf.clone()
                if first is not None:
                    own_g = torch.arange(len(new_gf), device=new_gf.device) + first + top
                    ranked_gf[own_g[:, None] == numbers_f] = -torch.inf
                at_gK = ranked_gf.topk(min(num, len(unit_fE)), dim=1).indices
                ranked_gK = torch.cat([best_nK[own], ranked_gf.gather(1, at_gK)], 1)
                kept_gK = ranked_gK.topk(num, dim=1).indices
                best_nK[own] = ranked_gK.gather(1, kept_gK)
                for known, new in (
                    (cosine_nK, new_gf.gather(1, at_gK)),
                    (number_nK, numbers_f[at_gK]),
                ):
                    known[own] = torch.cat([known[own], new], 1).gather(1, kept_gK)
    is_none_nK = best_nK == -torch.inf
    return number_nK.masked_fill_(is_none_nK, -1), cosine_nK.masked_fill_(is_none_nK, 0.0)
