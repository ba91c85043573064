"""What a direction at a site does to the logits, straight, past all later layers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_dist.lm.config import LMConfig, LMDtype
from sae_dist.lm.families import decoder_of, family_of
from sae_dist.lm.files import find_lm, read_config
from sae_dist.lm.foresee import has_own_code, skeleton
from sae_dist.lm.load import decided_dtype, load_lm
from sae_dist.lm.sites import End, Site, resolve
from sae_dist.lm.weights import fill

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


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """The modules that stand between a site and the logits.

    A norm's weight and `offset` are its gain. `W_O` is there where a site is before it.
    """

    head: nn.Module
    final_norm: nn.Module
    offset: float
    W_O: nn.Module | None = None
    attention_norm: nn.Module | None = None

    @property
    def modules(self) -> list[nn.Module]:
        every = self.head, self.final_norm, self.W_O, self.attention_norm
        return [module for module in every if module is not None]


def load_unembeddings(
    config: LMConfig, sites: Iterable[str], device: torch.device | str, *, key: str = "lm.name"
) -> dict[str, Unembedding | None]:
    """`unembeddings` of a saved language model.

    Of safetensors only the weights that count are read; a model that was saved otherwise, is
    quantised, or has code of its own is loaded whole.

    Raises:
        UserError: as `load_lm`, naming the setting `key`.
    """
    files, sites = find_lm(config, key), list(sites)
    described = None if files.gguf is not None else read_config(config, key)
    if described is not None and not has_own_code(config, described):
        decided = decided_dtype(config.dtype)
        named = described.dtype if decided is LMDtype.auto else decided.value
        dtype = getattr(torch, str(named).removeprefix("torch."), None)
        model = skeleton(config, described, key)  # which sets another dtype
        ways = [way for site in sites if (way := _way(model, site)) is not None]
        modules = dict.fromkeys(module for way in ways for module in way.modules)
        if not modules or fill(model, modules, files, dtype, device):
            return unembeddings(model, sites)
    return unembeddings(load_lm(config, device, key=key).model, sites)


@torch.no_grad()
def unembeddings(model: PreTrainedModel, sites: Iterable[str]) -> dict[str, Unembedding | None]:
    """By site the effect on the logits of what is written there.

    What is in the residual stream or added to it (`resid_pre`, `resid_post`, `mlp_out`, the
    attention's output) as it is; `attn_z` through W_O, and in Gemmas the gain of the norm that
    follows. None at other sites, which no logit reads directly (`mlp_in`), for models without
    logits, and in families that are not known.
    """
    ways = {site: _way(model, site) for site in sites}
    heads = {way.head for way in ways.values() if way}
    W_VD = {head: head.get_parameter("weight").float() for head in heads}
    return {
        site: None if way is None else _unembedding(way, W_VD[way.head])
        for site, way in ways.items()
    }


def _way(model: PreTrainedModel, name: str) -> _Way | None:
    family, head = family_of(model), model.get_output_embeddings()
    if family is None or head is None:
        return None
    norm = decoder_of(model)[1].get_submodule(family.final_norm)
    way, site = _Way(head, norm, family.gain_offset), resolve(model, name)
    if _is_residual(model, site):
        return way
    if site.layer is None:
        return None
    heads = resolve(model, f"attn_z.{site.layer}")
    if site.module_path != heads.module_path:
        return None
    W_O = model.get_submodule(heads.module_path) if site.end is End.input else None
    layer, attention_norm = heads.module_path.removesuffix(family.attention_out), None
    if family.attention_norm is not None:
        attention_norm = model.get_submodule(layer + family.attention_norm)
    return replace(way, W_O=W_O, attention_norm=attention_norm)


def _is_residual(model: PreTrainedModel, place: Site) -> bool:
    """Whether a site, however it is spelt, is in the residual stream or added to it."""
    named = (resolve(model, f"{kind}.{place.layer}") for kind in _INTO_RESIDUAL)
    same = (place.module_path, place.end)
    return place.layer is not None and any((s.module_path, s.end) == same for s in named)


def _unembedding(way: _Way, W_VD: Tensor) -> Unembedding:
    is_centred = isinstance(way.final_norm, nn.LayerNorm)
    weight_D = way.final_norm.get_parameter("weight").float()
    return Unembedding(
        W_VD=W_VD,
        gain_D=weight_D if is_centred else weight_D + way.offset,
        is_centred=is_centred,
        into_ED=_into_residual(way, len(weight_D)),
    )


def _into_residual(way: _Way, width: int) -> Tensor | None:
    """What leads from an attention's heads, or its output, to the residual stream."""
    if way.W_O is None and way.attention_norm is None:
        return None
    if way.W_O is not None:
        weight = way.W_O.get_parameter("weight")
        basis_EE = torch.eye(_width_in(way.W_O), dtype=weight.dtype, device=weight.device)
        into_ED = (way.W_O(basis_EE) - way.W_O(torch.zeros_like(basis_EE))).float()
    else:
        into_ED = torch.eye(width, device=way.final_norm.get_parameter("weight").device)
    if way.attention_norm is not None:
        into_ED = into_ED * (way.attention_norm.get_parameter("weight").float() + way.offset)
    return into_ED


def _width_in(linear: nn.Module) -> int:
    """Of a Linear, or of GPT-2's, whose matrix is turned."""
    return int(getattr(linear, "in_features", 0) or linear.get_parameter("weight").shape[0])
