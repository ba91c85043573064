"""From the normalised activations of training to the raw ones of the language model."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import Inputs
from sae_dist.coders.cross_layer import CrossLayerTranscoder, make_coder
from sae_dist.coders.whiten import without_whitening

Scale = float | Tensor
"""C by which activations are divided in training: one number, or one of each column [D]."""


@cache
def scale_of(
    mean_squares: tuple[float, ...],
    d_in: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Scale:
    """C = √E‖x‖² of one site; of several side by side that of each column's site [D].

    Equal ones are one object, by which `SharedRows` knows them.
    """
    if len(mean_squares) == 1:
        return math.sqrt(mean_squares[0])
    scales_L = torch.tensor(mean_squares, dtype=torch.float64).sqrt()
    return scales_L.repeat_interleave(d_in // len(mean_squares)).to(device, dtype)


@torch.no_grad()
def fold(
    coder: Coder,
    scale: Scale,
    weights: Mapping[str, Tensor] | None = None,
    *,
    target_scale: Scale | None = None,
) -> Coder:
    """The same coder on raw activations (Gemma Scope, App. A, eqs. 5-11).

    In training `x = x_raw / C` and `y = y_raw / C`, so that with

        b_enc' = C b_enc - C W_enc b_dec,   b_dec' = C b_dec,   θ' = C θ

    neither the scaling nor the subtraction of b_dec is needed. W_enc, W_dec and W_skip stay, but
    for what whitened inputs make of them. What sees tokens of norm 1 has no C. A transcoder's
    target has a C of its own, by which activations grow, so that W_dec stays there, too:

        W_enc' = C_y / C_x W_enc,   b_enc' = C_y b_enc,   θ' = C_y θ,   b_dec' = C_y b_dec,
        W_skip' = C_y / C_x W_skip

    A crosscoder's sites have a C each, and one activation for all of them, which stays instead:

        W_enc' = W_enc / C,   b_enc' = b_enc - W_enc b_dec,   W_dec' = W_dec C,   b_dec' = C b_dec

    with W_enc's and W_dec's columns divided and multiplied by their site's; so have a cross-layer
    transcoder's layers.

    Args:
        coder: as trained, whole or a slice; left as it is.
        scale: C, one number or one of each column [D].
        weights: to take in place of the coder's own, by name.
        target_scale: that of the target, if it is another.

    Returns:
        a coder of the same dtype in evaluation mode, with `pre_bias` off. What stays of W_enc,
        W_dec and W_skip lies where that of `coder` does: it is to be read before that one is
        trained on.
    """
    given = coder.state_dict() | dict(weights or {})
    tensors = {name: tensor.detach().to(coder.dtype) for name, tensor in given.items()}
    config = coder.config
    if coder.pre_bias:
        tensors["b_enc"] = tensors["b_enc"] - tensors["W_enc"] @ tensors["b_dec"]
    if config.inputs is Inputs.whitened:
        tensors = without_whitening(tensors)
        config = replace(config, inputs=Inputs.plain)
    _to_raw(coder, tensors, scale, scale if target_scale is None else target_scale)
    how = {"latents": coder.latents, "pre_bias": False, "device": "meta"}
    folded = make_coder(config, coder.d_in, coder.d_out, **how)
    folded.load_state_dict(tensors, assign=True)
    folded.collectives = coder.collectives
    return folded.eval().requires_grad_(False)


@torch.no_grad()
def unfold(folded: Coder, scale: Scale, coder: Coder, *, target_scale: Scale | None = None) -> None:
    """Give a coder in training the weights of one on raw activations: what `fold` undoes.

    Args:
        folded: on raw activations; left as it is.
        scale, target_scale: C of the activations that `coder` is trained on, as for `fold`.
        coder: of the same kind, form, widths and latents; changed in place.
    """
    tensors = {name: tensor.to(coder.dtype) for name, tensor in folded.state_dict().items()}
    _to_raw(coder, tensors, 1 / scale, 1 / (scale if target_scale is None else target_scale))
    if folded.pre_bias != coder.pre_bias:
        shift_F = tensors["W_enc"] @ tensors["b_dec"]
        tensors["b_enc"] = tensors["b_enc"] + (shift_F if coder.pre_bias else -shift_F)
    coder.load_state_dict(tensors)


def _to_raw(coder: Coder, tensors: dict[str, Tensor], scale: Scale, target_scale: Scale) -> None:
    """Change weights to those for activations that are C times as large, in place."""
    if isinstance(scale, Tensor) and isinstance(target_scale, Tensor):
        scale_D, target_E = (one.to(tensors["b_dec"]) for one in (scale, target_scale))
        tensors["b_dec"] = tensors["b_dec"] * target_E
        for prefix, columns_D, columns_E in _blocks(coder, scale_D, target_E):
            tensors[f"{prefix}W_enc"] = tensors[f"{prefix}W_enc"] / columns_D
            tensors[f"{prefix}W_dec"] = tensors[f"{prefix}W_dec"] * columns_E
        return
    if coder.config.inputs is Inputs.unit:
        return
    own = (name for name, spec in coder.config.tensors().items() if spec.scales)
    for name in ("b_enc", "b_dec", *own):
        tensors[name] = tensors[name] * target_scale
    if target_scale != scale:
        for name in tensors.keys() & {"W_enc", "W_skip"}:
            tensors[name] = tensors[name] * (target_scale / scale)


def _blocks(
    coder: Coder, scale_D: Tensor, target_E: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The names of a matrix of each layer begin so, and these are the scales of its columns."""
    if not isinstance(coder, CrossLayerTranscoder):
        yield "", scale_D, target_E
        return
    for number, (layer, own_D) in enumerate(
        zip(coder.layers, scale_D.chunk(len(coder.layers)), strict=True)
    ):
        yield f"layers.{number}.", own_D, target_E[-layer.d_out :]
