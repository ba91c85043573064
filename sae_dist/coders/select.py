"""Which latents may fire: exact TopK and BatchTopK, wherever the latents and rows are.

Only positive pre-activations are ever selected (ReLU after selection, Gao et al. 2024), and ties go
to the first row, then to the first latent: the same selection on every layout.
"""

import torch
from torch import Tensor

from sae_dist.coders.placement import Placement
from sae_dist.kernels import kth_largest


@torch.no_grad()
def top_k(z_BF: Tensor, k: int, placement: Placement) -> Tensor:
    """Mask [B, F] of the k largest positive pre-activations of each row, over all latents."""
    # One candidate more than k shows ties that reach beyond a slice's own k.
    own_BK = z_BF.topk(min(k + 1, z_BF.shape[1]), dim=1).values
    candidates_BK = placement.join_latents(own_BK)
    if candidates_BK.shape[1] <= k:
        return z_BF > 0
    kth_B1 = candidates_BK.topk(k, dim=1).values[:, -1:].clamp_min(0.0)
    mask_BF = (z_BF >= kth_B1) & (z_BF > 0)
    num_B1 = ((candidates_BK >= kth_B1) & (candidates_BK > 0)).sum(1, keepdim=True)
    if (num_B1 > k).any():
        room_B1 = k - (candidates_BK > kth_B1).sum(1, keepdim=True)
        ties_BF = mask_BF & (z_BF == kth_B1)
        num_before_B1 = placement.before_latents(ties_BF.sum(1, keepdim=True))
        mask_BF &= ~ties_BF | (num_before_B1 + ties_BF.cumsum(1) <= room_B1)
    return mask_BF


@torch.no_grad()
def batch_top_k(z_BF: Tensor, k: int, placement: Placement) -> Tensor:
    """Mask [B, F] of the k·B largest positive pre-activations of the global batch of B rows.

    Bussmann et al. 2024; every part of the batch must have equally many rows.
    """
    num_kept = k * len(z_BF) * placement.num_parts
    kth, num_greater, num_equal = kth_largest(z_BF, num_kept, placement.count)
    mask_BF = (z_BF >= kth) & (z_BF > 0)
    if num_greater + num_equal > num_kept:
        ties_BF = mask_BF & (z_BF == kth)
        ties_B = ties_BF.sum(1)
        ties_everywhere_B = placement.sum_latents(ties_B)
        rows_before_B = ties_everywhere_B.cumsum(0) - ties_everywhere_B
        parts_before = placement.before_rows(ties_everywhere_B.sum())
        num_before_B = parts_before + rows_before_B + placement.before_latents(ties_B)
        room = num_kept - num_greater
        mask_BF &= ~ties_BF | (num_before_B[:, None] + ties_BF.cumsum(1) <= room)
    return mask_BF
