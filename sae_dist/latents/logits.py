"""Which of the vocabulary's tokens latents make likelier."""

import torch
from torch import Tensor

from sae_dist.latents.columns import BINS, Columns, tally
from sae_dist.lm import Unembedding

_VALUES = 1 << 22  # logits at once


@torch.no_grad()
def logits(rows_nE: Tensor, effect_of: Unembedding, num: int) -> Columns:
    """The columns of `folder.COLUMNS` that speak of logits, by decoder rows."""
    size = max(1, _VALUES // len(effect_of.W_VD))
    blocks = [_of_block(effect_of(rows_hE), num) for rows_hE in rows_nE.detach().split(size)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _of_block(effect_hV: Tensor, num: int) -> Columns:
    num = min(num, effect_hV.shape[1])
    top, bottom = effect_hV.topk(num), effect_hV.topk(num, largest=False)
    range_h2 = torch.stack(effect_hV.aminmax(dim=1), 1)
    least_h1, most_h1 = range_h2.split(1, 1)
    bins_hV = ((effect_hV - least_h1) / (most_h1 - least_h1).clamp_min(1e-30) * BINS).long()
    bins_hV.clamp_max_(BINS - 1)
    bins_hV += torch.arange(len(effect_hV), device=effect_hV.device)[:, None] * BINS
    return {
        "top_tokens": top.indices.int(),
        "top_logits": top.values,
        "bottom_tokens": bottom.indices.int(),
        "bottom_logits": bottom.values,
        "logits_histogram": tally(bins_hV.flatten(), len(effect_hV) * BINS).view(-1, BINS),
        "logits_range": range_h2,
    }
