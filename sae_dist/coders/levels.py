"""Matryoshka coders: some shares of the latents reconstruct by themselves (Bussmann et al. 2025).

Whatever the kind selects, each entry belongs to a level, and what the levels up to one decode to is
a reconstruction of its own. A step decodes every entry once, into a row of its level; from there
the errors telescope: e_l = e_{l-1} - Σ f w over level l.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_dist.kernels import DensePass

if TYPE_CHECKING:
    from sae_dist.coders.coder import Coder
    from sae_dist.coders.config import CoderConfig

_GOLDEN, _RANGE = 2654435769, 2**32  # of Knuth's multiplicative hash: 2³² / φ


def level_of_latents(
    latents: range, shares: Sequence[float], device: torch.device | str = "cpu"
) -> Tensor:
    """The level of each latent [len(latents)], from 0: the number of shares it does not belong to.

    Latent j belongs to a share s where j · 2654435769 mod 2³² < s · 2³². Multiples of the golden
    ratio lie evenly between 0 and 1, so that any run of latents has nearly its part of every level,
    and every slice of them as much to do.
    """
    latents_F = torch.arange(latents.start, latents.stop, device=device)
    place_F = latents_F * _GOLDEN % _RANGE
    level_F = torch.zeros_like(latents_F)
    for share in shares:
        level_F += place_F >= math.ceil(share * _RANGE)
    return level_F


def dense_pass(coder: Coder, config: CoderConfig, x_BD: Tensor, centre_D: Tensor) -> DensePass:
    """The kind's dense pass, of each level by itself, one below the other [L·B, E]."""
    rows = {name: coder.get_parameter(name) for name in coder.latent_tensors}
    if config.num_levels == 1:
        return config.dense_pass(rows, x_BD, centre_D)
    level_F = level_of_latents(coder.latents, config.levels or (), x_BD.device)
    latents = [(level_F == level).nonzero().flatten() for level in range(config.num_levels)]
    passes = [
        config.dense_pass({name: row[own_f] for name, row in rows.items()}, x_BD, centre_D)
        for own_f in latents
    ]
    fired_F = torch.cat([one.fired_F for one in passes])
    return DensePass(
        decoded_BE=torch.cat([one.decoded_BE for one in passes]),
        num_active=torch.stack([one.num_active for one in passes]).sum(),
        fired_F=torch.empty_like(fired_F).index_copy_(0, torch.cat(latents), fired_F),
        least=torch.stack([one.least for one in passes]).min(),
    )


def level_errors(
    coder: Coder, x_BD: Tensor, y_BE: Tensor, blocks: Sequence[Tensor]
) -> Iterator[Tensor]:
    """y - ŷ of each level [B, E], from what the entries of each one decode to [B, E]."""
    error_BE = y_BE - coder.assemble(blocks[0], x_BD)
    yield error_BE
    for block_BE in blocks[1:]:
        error_BE = error_BE - block_BE
        yield error_BE
