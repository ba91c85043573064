"""Whitened inputs: every direction of an activation as wide as any other (arXiv 2511.13981)."""

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder

_FLOOR = 1e-3  # of the mean variance, added to each: directions without any are not blown up


@torch.no_grad()
def fit_whitening(coder: Coder, x_ND: Tensor) -> None:
    """Give a coder with whitened inputs the mean and the covariance of a sample, changed in place.

    `whitening = Σ^-½ / √D` and `colouring = √D Σ^½`, Σ the covariance with a floor (ZCA), so that
    E‖x‖² of what it sees is 1.
    """
    x_ND = x_ND.double()
    mean_D = x_ND.mean(0)
    centred_ND = x_ND - mean_D
    variances_D, vectors_DD = torch.linalg.eigh(centred_ND.T @ centred_ND / len(x_ND))
    spread_D = (variances_D.clamp_min(0.0) + _FLOOR * variances_D.mean()).sqrt()
    spread_D *= len(spread_D) ** 0.5
    coder.get_buffer("input_mean").copy_(mean_D)
    coder.get_buffer("whitening").copy_(vectors_DD / spread_D @ vectors_DD.T)
    coder.get_buffer("colouring").copy_(vectors_DD * spread_D @ vectors_DD.T)


@torch.no_grad()
def without_whitening(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the coder that does the same to activations as they are, without `pre_bias`.

    W_enc' = W_enc P,  b_enc' = b_enc - W_enc P μ,  W_dec' = W_dec P⁻¹,  b_dec' = P⁻¹ b_dec + μ.
    """
    rest = dict(tensors)
    mean_D, P_DD, colouring_DD = (
        rest.pop(name) for name in ("input_mean", "whitening", "colouring")
    )
    W_enc = rest["W_enc"] @ P_DD
    return rest | {
        "W_enc": W_enc,
        "b_enc": rest["b_enc"] - W_enc @ mean_D,
        "W_dec": rest["W_dec"] @ colouring_DD,
        "b_dec": rest["b_dec"] @ colouring_DD + mean_D,
    }
