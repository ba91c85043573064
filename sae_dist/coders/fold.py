"""From the normalised activations of training to the raw ones of the language model."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import Inputs
from sae_dist.coders.whiten import without_whitening


@torch.no_grad()
def fold(coder: Coder, scale: float, weights: Mapping[str, Tensor] | None = None) -> Coder:
    """The same coder on raw activations (Gemma Scope, App. A, eqs. 5-11).

    In training `x = x_raw / C` and `y = y_raw / C`, so that with

        b_enc' = C b_enc - C W_enc b_dec,   b_dec' = C b_dec,   θ' = C θ

    neither the scaling nor the subtraction of b_dec is needed. W_enc, W_dec and W_skip stay, but
    for what whitened inputs make of them. What sees tokens of norm 1 has no C.

    Args:
        coder: as trained, whole or a slice; left as it is.
        scale: C.
        weights: to take in place of the coder's own, by name.

    Returns:
        a coder of the same dtype in evaluation mode, with `pre_bias` off. Its W_enc, W_dec and
        W_skip lie where those of `coder` do: it is to be read before that one is trained on.
    """
    given = coder.state_dict() | dict(weights or {})
    tensors = {name: tensor.detach().to(coder.W_enc.dtype) for name, tensor in given.items()}
    config = coder.config
    if coder.pre_bias:
        tensors["b_enc"] = tensors["b_enc"] - tensors["W_enc"] @ tensors["b_dec"]
    if config.inputs is Inputs.whitened:
        tensors = without_whitening(tensors)
        config = replace(config, inputs=Inputs.plain)
    for name in _scaled(coder):
        tensors[name] = tensors[name] * scale
    widths = coder.d_in, coder.d_out
    folded = Coder(config, *widths, latents=coder.latents, pre_bias=False, device="meta")
    folded.load_state_dict(tensors, assign=True)
    folded.collectives = coder.collectives
    return folded.eval().requires_grad_(False)


@torch.no_grad()
def unfold(folded: Coder, scale: float, coder: Coder) -> None:
    """Give a coder in training the weights of one on raw activations: what `fold` undoes.

    Args:
        folded: on raw activations; left as it is.
        scale: C of the activations that `coder` is trained on.
        coder: of the same kind, form, widths and latents; changed in place.
    """
    tensors = {name: tensor.to(coder.W_enc.dtype) for name, tensor in folded.state_dict().items()}
    for name in _scaled(coder):
        tensors[name] = tensors[name] / scale
    shift_F = tensors["W_enc"] @ tensors["b_dec"] if folded.pre_bias != coder.pre_bias else 0.0
    tensors["b_enc"] = tensors["b_enc"] + (shift_F if coder.pre_bias else -shift_F)
    coder.load_state_dict(tensors)


def _scaled(coder: Coder) -> list[str]:
    """The names of the weights that are in units of activations, if these keep theirs."""
    if coder.config.inputs is Inputs.unit:
        return []
    own = (name for name, spec in coder.config.tensors().items() if spec.scales)
    return ["b_enc", "b_dec", *own]
