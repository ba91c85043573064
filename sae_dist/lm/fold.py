"""Fold the gains of RMSNorms into the matrices that read them."""

import torch
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm.families import FAMILIES, decoder_of, family_of


@torch.no_grad()
def fold_rms_norms(model: PreTrainedModel) -> None:
    """Fold every pre-MLP RMSNorm's gain g into the MLP's input matrices, in place.

    W ← W · diag(g) and g ← 1, so that `mlp_in` is the bare normalised vector of norm √D while the
    model computes the same function (Gemma Scope, App. B; Gurnee et al. 2024, App. A.1). The
    product is taken in float32 and rounded once. Folding twice changes nothing.

    Raises UserError for a family that is not known or that has LayerNorms.
    """
    family = family_of(model)
    if family is None or family.mlp_norm is None:
        foldable = [name for name, known in FAMILIES.items() if known.mlp_norm]
        why = "its LayerNorms centre and shift, too" if family else "its layout is not known"
        raise UserError(
            f"found a model of type {model.config.model_type}, whose norms cannot be folded ({why})"
            f"; expected one of {', '.join(foldable)}; set lm.fold_norms=false"
        )
    for layer in decoder_of(model)[1].get_submodule(family.layers).children():
        weight_D = layer.get_submodule(family.mlp_norm).get_parameter("weight")
        gain_D = weight_D.float() + family.gain_offset
        for path in family.mlp_inputs:
            matrix = layer.get_submodule(path).get_parameter("weight")
            matrix.copy_(matrix.float() * gain_D)
        weight_D.fill_(1.0 - family.gain_offset)
