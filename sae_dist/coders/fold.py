"""From the normalised activations of training to the raw ones of the language model."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder

Scale = float | Tensor
"""C by which activations are divided in training: one number, or one of each column [D]."""


def scale_of(
    mean_squares: Sequence[float], d_in: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Scale:
    """C = √E‖x‖² of one site; of several side by side that of each column's site [D]."""
    if len(mean_squares) == 1:
        return math.sqrt(mean_squares[0])
    scales_L = torch.tensor(mean_squares, dtype=torch.float64).sqrt()
    return scales_L.repeat_interleave(d_in // len(mean_squares)).to(device, dtype)


@torch.no_grad()
def fold(coder: Coder, scale: Scale, weights: Mapping[str, Tensor] | None = None) -> Coder:
    """The same coder on raw activations (Gemma Scope, App. A, eqs. 5-11).

    In training `x = x_raw / C` and `y = y_raw / C`, so that with

        b_enc' = C b_enc - C W_enc b_dec,   b_dec' = C b_dec,   θ' = C θ

    neither the scaling nor the subtraction of b_dec is needed. W_enc, W_dec and W_skip stay. A
    crosscoder's sites have a C each, and one activation for all of them, which stays instead:

        W_enc' = W_enc / C,   b_enc' = b_enc - W_enc b_dec,   W_dec' = W_dec C,   b_dec' = C b_dec

    with W_enc's and W_dec's columns divided and multiplied by their site's.

    Args:
        coder: as trained, whole or a slice; left as it is.
        scale: C, one number or one of each column [D].
        weights: to take in place of the coder's own, by name.

    Returns:
        a coder of the same dtype in evaluation mode, with `pre_bias` off. Its W_enc, W_dec and
        W_skip lie where those of `coder` do, unless each column has its C: it is to be read before
        that one is trained on.
    """
    given = coder.state_dict() | dict(weights or {})
    tensors = {name: tensor.detach().to(coder.W_enc.dtype) for name, tensor in given.items()}
    if coder.pre_bias:
        tensors["b_enc"] = tensors["b_enc"] - tensors["W_enc"] @ tensors["b_dec"]
    _to_raw(coder, tensors, scale)
    widths = coder.d_in, coder.d_out
    folded = Coder(coder.config, *widths, latents=coder.latents, pre_bias=False, device="meta")
    folded.load_state_dict(tensors, assign=True)
    folded.collectives = coder.collectives
    return folded.eval().requires_grad_(False)


@torch.no_grad()
def unfold(folded: Coder, scale: Scale, coder: Coder) -> None:
    """Give a coder in training the weights of one on raw activations: what `fold` undoes.

    Args:
        folded: on raw activations; left as it is.
        scale: C of the activations that `coder` is trained on, as for `fold`.
        coder: of the same kind, form, widths and latents; changed in place.
    """
    tensors = {name: tensor.to(coder.W_enc.dtype) for name, tensor in folded.state_dict().items()}
    _to_raw(coder, tensors, 1 / scale)
    shift_F = tensors["W_enc"] @ tensors["b_dec"] if folded.pre_bias != coder.pre_bias else 0.0
    tensors["b_enc"] = tensors["b_enc"] + (shift_F if coder.pre_bias else -shift_F)
    coder.load_state_dict(tensors)


def _to_raw(coder: Coder, tensors: dict[str, Tensor], scale: Scale) -> None:
    """Change weights to those for activations that are C times as large, in place."""
    if isinstance(scale, Tensor):
        scale_D = scale.to(tensors["W_enc"])
        tensors["W_enc"] = tensors["W_enc"] / scale_D
        tensors["W_dec"] = tensors["W_dec"] * scale_D
        tensors["b_dec"] = tensors["b_dec"] * scale_D
        return
    own = (name for name, spec in coder.config.tensors().items() if spec.scales)
    for name in ("b_enc", "b_dec", *own):
        tensors[name] = tensors[name] * scale
