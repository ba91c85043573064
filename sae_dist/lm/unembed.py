"""What a direction at a site does to the logits, straight, past all later layers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sae_dist.lm.families import Family, decoder_of, family_of
from sae_dist.lm.sites import End, Site, resolve

_INTO_RESIDUAL = ("resid_pre", "resid_post", "mlp_out")


@dataclass(frozen=True, slots=True, eq=False)
class Unembedding:
    """W_U after the final norm's gain g: d ↦ W_U (g ⊙ d) [V], float32.

    A norm's scale, one number a token, is left out, and so are its bias and a cap of the logits. A
    LayerNorm also takes away the mean of d (`is_centred`). `into_ED` leads from the site to the
    residual stream; None at sites that are added to it as they are.
    """

    W_VD: Tensor
    gain_D: Tensor
    is_centred: bool
    into_ED: Tensor | None

    def __call__(self, direction_nE: Tensor) -> Tensor:
        """The effects of some directions on all logits [n, V]."""
        d_nD = direction_nE.float()
        if self.into_ED is not None:
            d_nD = d_nD @ self.into_ED
        if self.is_centred:
            d_nD = d_nD - d_nD.mean(1, keepdim=True)
        return (d_nD * self.gain_D) @ self.W_VD.T


@torch.no_grad()
def unembedding(model: PreTrainedModel, site: str) -> Unembedding | None:
    """The effect on the logits of what is written at a site.

    What is in the residual stream or added to it (`resid_pre`, `resid_post`, `mlp_out`, the
    attention's output) as it is; `attn_z` through W_O, and in Gemmas the gain of the norm that
    follows. None at other sites, which no logit reads directly (`mlp_in`), for models without
    logits, and in families that are not known.
    """
    family, head = family_of(model), model.get_output_embeddings()
    if family is None or head is None:
        return None
    decoder = decoder_of(model)[1]
    norm = decoder.get_submodule(family.final_norm)
    weight_D = norm.get_parameter("weight").float()
    is_centred = isinstance(norm, torch.nn.LayerNorm)
    place = resolve(model, site)
    is_residual = _is_residual(model, place)
    into_ED = None if is_residual else _through_attention(model, family, place, len(weight_D))
    if not is_residual and into_ED is None:
        return None
    return Unembedding(
        W_VD=head.weight.detach().float(),
        gain_D=weight_D if is_centred else weight_D + family.gain_offset,
        is_centred=is_centred,
        into_ED=into_ED,
    )


def _is_residual(model: PreTrainedModel, place: Site) -> bool:
    """Whether a site, however it is spelt, is in the residual stream or added to it."""
    named = (resolve(model, f"{kind}.{place.layer}") for kind in _INTO_RESIDUAL)
    same = (place.module_path, place.end)
    return place.layer is not None and any((s.module_path, s.end) == same for s in named)


def _through_attention(
    model: PreTrainedModel, family: Family, place: Site, width: int
) -> Tensor | None:
    """What leads from an attention's heads, or its output, to the residual stream."""
    if place.layer is None:
        return None
    heads = resolve(model, f"attn_z.{place.layer}")
    if place.module_path != heads.module_path:
        return None
    W_O = model.get_submodule(heads.module_path)
    weight = W_O.get_parameter("weight")
    if place.end is End.input:
        basis_EE = torch.eye(_width_in(W_O), dtype=weight.dtype, device=weight.device)
        into_ED = (W_O(basis_EE) - W_O(torch.zeros_like(basis_EE))).float()
    else:
        into_ED = torch.eye(width, device=weight.device)
    if family.attention_norm is not None:
        layer = heads.module_path.removesuffix(family.attention_out)
        norm = model.get_submodule(layer + family.attention_norm)
        into_ED = into_ED * (norm.get_parameter("weight").float() + family.gain_offset)
    return into_ED


def _width_in(linear: torch.nn.Module) -> int:
    """Of a Linear, or of GPT-2's, whose matrix is turned."""
    return int(getattr(linear, "in_features", 0) or linear.get_parameter("weight").shape[0])
