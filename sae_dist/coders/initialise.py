"""How coders begin, latent by latent: a slice of a coder begins as that slice of the whole."""

import math

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import Inputs
from sae_dist.coders.cross_layer import CrossLayerTranscoder
from sae_dist.coders.whiten import fit_whitening
from sae_dist.common.seeds import derive

_BLOCK_LATENTS = 1024


def unit_rows(seed: int, name: str, latents: range, width: int) -> Tensor:
    """He-uniform rows scaled to unit norm [len(latents), width], float32.

    Rows are drawn in blocks with a seed each, so that no process draws more than its own slice.
    """
    rows = torch.empty(len(latents), width)
    for block in range(latents.start // _BLOCK_LATENTS, math.ceil(latents.stop / _BLOCK_LATENTS)):
        first = block * _BLOCK_LATENTS
        generator = torch.Generator().manual_seed(derive(seed, name, block))
        drawn = torch.rand(_BLOCK_LATENTS, width, generator=generator) * 2 - 1
        wanted = range(max(first, latents.start), min(first + _BLOCK_LATENTS, latents.stop))
        rows[wanted.start - latents.start : wanted.stop - latents.start] = drawn[
            wanted.start - first : wanted.stop - first
        ]
    return torch.nn.functional.normalize(rows, dim=1)


def geometric_median(x_ND: Tensor, *, max_steps: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point [D] whose summed distance to the rows is least (Weiszfeld's iteration)."""
    median_D = x_ND.mean(0)
    for _ in range(max_steps):
        weights_N = 1 / (x_ND - median_D).norm(dim=1).clamp_min(1e-12)
        previous_D, median_D = median_D, (weights_N @ x_ND) / weights_N.sum()
        if (median_D - previous_D).norm() <= tolerance * median_D.norm():
            break
    return median_D


def mean_to_spread(x_ND: Tensor) -> Tensor:
    """γ = ‖mean‖ / √E‖x - mean‖² of some rows (0-dim): the larger, the more latents die
    of a coder that begins without the mean (arXiv 2605.31518).
    """
    mean_D = x_ND.mean(0)
    return mean_D.norm() / (x_ND - mean_D).square().sum(1).mean().sqrt()


def long_tokens(x_ND: Tensor, times: float) -> tuple[float, float]:
    """Of some rows those whose norm is more than `times` the median: as a share of all, and of
    Σ‖x‖². Attention sinks are few, and can be most of what a loss sees.
    """
    square_N = x_ND.double().square().sum(1)
    is_long_N = square_N > times**2 * square_N.median()
    share = square_N[is_long_N].sum() / square_N.sum()
    return float(is_long_N.double().mean()), float(share)


@torch.no_grad()
def firing_thresholds(coder: Coder, x_ND: Tensor, share: float) -> Tensor:
    """For each latent the threshold that a share of these rows exceeds, one at least [F].

    It lies between two of their pre-activations, so that no rounding decides, but not below 0.
    """
    x_ND = coder.centred(x_ND.to(coder.W_enc))
    num_above, blocks = max(1, round(share * len(x_ND))), []
    rows = coder.W_enc.split(_BLOCK_LATENTS), coder.b_enc.split(_BLOCK_LATENTS)
    for W_fD, b_f in zip(*rows, strict=True):
        z_Nf = torch.addmm(b_f, x_ND, W_fD.T)
        largest_nf = z_Nf.topk(min(num_above + 1, len(z_Nf)), dim=0).values
        blocks.append(largest_nf[-2:].mean(0))
    return torch.cat(blocks).clamp_min(0.0)


@torch.no_grad()
def initialise(coder: Coder, seed: int, x_ND: Tensor, y_NE: Tensor) -> None:
    """Give a coder (or a slice of one) its first weights.

    Args:
        coder: changed in place.
        seed: two coders of one seed and width begin alike, whatever slices hold them; two of
            different widths have no row in common, which would have them find the same latents.
        x_ND, y_NE: a sample of normalised inputs and targets, equal on every process.

    Autoencoders begin with `W_enc = W_dec` (a copy), but for the norm of the encoder's rows, which
    is `initial_encoder_norm`; crosscoders likewise, with the same row at each site, so that latents
    begin as shared ones (Minder et al. 2025), and that norm at each; transcoders draw the two apart
    (Lieberum et al. 2024, App. B), or, without a unit-norm decoder, begin with `W_dec = 0`,
    `b_dec = mean(y)`, `b_enc = -W_enc mean(x)`: as a constant (Paulo et al. 2025, section 2). The
    b_dec of what reconstructs its input is the sample's geometric median (Gao et al. 2024, App. A),
    or where its kind does not begin there the mean: a mean that is large beside the spread leaves
    most latents dead (arXiv 2605.31518). A cross-layer transcoder's layers begin as transcoders do.
    """
    config, latents = coder.config, coder.latents
    if isinstance(coder, CrossLayerTranscoder):
        for number, (layer, x_Nd) in enumerate(
            zip(coder.layers, coder.by_layer(x_ND), strict=True)
        ):
            initialise(layer, derive(seed, "layer", number), x_Nd, y_NE[:, -layer.d_out :])
        coder.b_dec.copy_(y_NE.mean(0) if config.begins_at_data else torch.zeros(()))
        return
    seed = derive(seed, "width", config.num_latents)
    if config.inputs is Inputs.whitened:
        fit_whitening(coder, x_ND)
    if config.inputs is not Inputs.plain:
        x_ND = coder.prepared(x_ND.to(coder.b_dec))
    coder.b_enc.zero_()
    coder.b_dec.zero_()
    if config.form.reconstructs_input:
        num_sites = config.num_sites
        rows_Fd = unit_rows(seed, "W_dec", latents, coder.d_out // num_sites)
        coder.W_dec.copy_(rows_Fd.repeat(1, num_sites) / num_sites)
        coder.W_enc.copy_(config.initial_encoder_norm * num_sites * coder.W_dec)
        middle_D = geometric_median(x_ND) if config.begins_at_data else x_ND.mean(0)
        coder.b_dec.copy_(middle_D)
    else:
        rows_FD = unit_rows(seed, "W_enc", latents, coder.d_in)
        coder.W_enc.copy_(config.initial_encoder_norm * rows_FD)
        if config.unit_norm_decoder:
            coder.W_dec.copy_(unit_rows(seed, "W_dec", latents, coder.d_out))
        else:
            coder.W_dec.zero_()
        if config.begins_at_data:
            coder.b_dec.copy_(y_NE.mean(0))
            coder.b_enc.copy_(-(coder.W_enc @ x_ND.mean(0).to(coder.W_enc.dtype)))
    config.initialise(coder, x_ND)
    if coder.W_skip is not None:
        coder.W_skip.zero_()
