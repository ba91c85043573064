"""What each kind of coder minimises. All figures are of the global batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import Kind
from sae_dist.coders.select import batch_top_k, top_k
from sae_dist.kernels import step


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One batch through a coder, with what its loss consists of."""

    loss: Tensor
    parts: dict[str, Tensor]
    acts_BF: Tensor
    fvu: Tensor
    l0: Tensor


def training_forward(
    coder: Coder,
    x_BD: Tensor,
    y_BE: Tensor,
    *,
    sparsity_coefficient: float,
    dead_F: Tensor,
    num_dead: int,
) -> Forward:
    """Encode, decode and compute the loss of one (part of a) batch of normalised activations.

    Args:
        coder: in training mode.
        x_BD, y_BE: input and target; the same tensor for an autoencoder.
        sparsity_coefficient: λ at this step, read by JumpReLU.
        dead_F: bool, which of the coder's latents are dead; read by AuxK.
        num_dead: how many latents are dead in all slices together.
    """
    num_rows = len(x_BD) * coder.placement.num_parts
    z_BF = coder.pre_activations(x_BD)
    acts_BF = coder.select(z_BF)
    error_BE = y_BE - coder.reconstruct(acts_BF, x_BD)
    fvu = batch_fvu(coder, error_BE, y_BE)
    with torch.no_grad():
        l0 = coder.placement.count((acts_BF > 0).sum()) / num_rows

    if coder.config.kind is Kind.jumprelu:
        parts = {
            "reconstruction": coder.placement.sum_rows(error_BE.pow(2).sum()) / num_rows,
            "sparsity": sparsity_coefficient * l0_penalty(coder, z_BF, num_rows),
        }
    else:
        parts = {"reconstruction": fvu}
        if coder.config.multi_topk:
            parts["multi_topk"] = multi_topk_fvu(coder, z_BF, x_BD, y_BE) / 8
        if coder.config.aux_coefficient and num_dead:
            aux = aux_k_loss(coder, z_BF, error_BE.detach(), dead_F, num_dead)
            parts["aux_k"] = coder.config.aux_coefficient * aux
    return Forward(
        loss=torch.stack(list(parts.values())).sum(),
        parts={name: part.detach() for name, part in parts.items()},
        acts_BF=acts_BF.detach(),
        fvu=fvu.detach(),
        l0=l0,
    )


def batch_fvu(coder: Coder, error_BE: Tensor, y_BE: Tensor) -> Tensor:
    """Σ‖y-ŷ‖² / Σ‖y-ȳ‖² with ȳ the mean of the global batch (Paulo et al. 2025)."""
    sum_rows = coder.placement.sum_rows
    mean_E = sum_rows(y_BE.sum(0)) / (len(y_BE) * coder.placement.num_parts)
    return sum_rows(error_BE.pow(2).sum()) / sum_rows((y_BE - mean_E).pow(2).sum())


def l0_penalty(coder: Coder, z_BF: Tensor, num_rows: int) -> Tensor:
    """mean ‖f‖₀ (Rajamanoharan et al. 2024b, eq. 9), or (2/L0*) (mean ‖f‖₀ - L0*)² with a target.

    The second form is Gemma Scope 2's, here on the batch's mean L0.
    """
    assert coder.threshold is not None
    l0_B = coder.placement.sum_latents(step(z_BF, coder.threshold, coder.config.bandwidth).sum(1))
    l0 = coder.placement.sum_rows(l0_B.sum()) / num_rows
    target = coder.config.target_l0
    return l0 if target is None else (2 / target) * (l0 - target) ** 2


def aux_k_loss(
    coder: Coder, z_BF: Tensor, error_BE: Tensor, dead_F: Tensor, num_dead: int
) -> Tensor:
    """How badly the strongest dead latents explain the error e (Gao et al. 2024, App. A.2).

    `‖e - ê‖² / ‖e - mean(e)‖²`, `ê = W_decᵀ ReLU(TopK_aux of the dead latents' z)` without b_dec,
    scaled by min(dead / aux_k, 1); NaN counts as 0. e comes detached.
    """
    dead_z_BF = torch.where(dead_F, z_BF, 0.0)
    mask_BF = top_k(dead_z_BF, coder.config.aux_k, coder.placement)
    guess_BE = coder.placement.sum_latents(torch.where(mask_BF, dead_z_BF, 0.0) @ coder.W_dec)
    scale = min(num_dead / coder.config.aux_k, 1.0)
    return scale * batch_fvu(coder, error_BE - guess_BE, error_BE).nan_to_num()


def multi_topk_fvu(coder: Coder, z_BF: Tensor, x_BD: Tensor, y_BE: Tensor) -> Tensor:
    """The batch's FVU when 4k latents may fire instead of k (Gao et al. 2024, section 4.3)."""
    k = 4 * coder.config.k
    select = top_k if coder.config.kind is Kind.topk else batch_top_k
    mask_BF = select(z_BF, k, coder.placement)
    wide_BE = coder.reconstruct(torch.where(mask_BF, z_BF, 0.0), x_BD)
    return batch_fvu(coder, y_BE - wide_BE, y_BE)
