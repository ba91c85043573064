"""Which of the vocabulary's tokens latents make likelier."""

import torch
from torch import Tensor

from sae_dist.latents.columns import BINS, Columns, tally
from sae_dist.lm import Unembedding

_PRODUCT, _CACHED = 1 << 22, 1 << 19  # logits of one product, and those looked through at once


@torch.no_grad()
def logits(rows_nE: Tensor, effect_of: Unembedding, num: int) -> Columns:
    """The columns of `folder.COLUMNS` that speak of logits, by decoder rows."""
    vocabulary = len(effect_of.W_VD)
    found: list[Columns] = []
    for rows_hE in rows_nE.detach().split(max(64, _PRODUCT // vocabulary)):
        blocks = effect_of(rows_hE).split(max(1, _CACHED // vocabulary))
        found += [_of_block(effect_hV, min(num, vocabulary)) for effect_hV in blocks]
    return {name: torch.cat([block[name] for block in found]) for name in found[0]}


def _of_block(effect_hV: Tensor, num: int) -> Columns:
    """The same of some latents' effects, which are used up."""
    top, bottom = effect_hV.topk(num), effect_hV.topk(num, largest=False)
    least_h1, most_h1 = bottom.values[:, :1].clone(), top.values[:, :1].clone()
    scale_h1 = BINS / (most_h1 - least_h1).clamp_min(torch.finfo(torch.float32).tiny * BINS)
    bins_hV = effect_hV.sub_(least_h1).mul_(scale_h1).clamp_max_(BINS - 1).long()
    bins_hV += torch.arange(len(effect_hV), device=effect_hV.device)[:, None] * BINS
    return {
        "top_tokens": top.indices.int(),
        "top_logits": top.values,
        "bottom_tokens": bottom.indices.int(),
        "bottom_logits": bottom.values,
        "logits_histogram": tally(bins_hV.flatten(), len(effect_hV) * BINS).view(-1, BINS),
        "logits_range": torch.cat([least_h1, most_h1], 1),
    }
