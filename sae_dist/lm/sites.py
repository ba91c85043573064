"""Names of the places in a language model where activations are read or written."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from torch import nn
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm.families import FAMILIES, decoder_of, family_of

_SHORT_NAME = re.compile(r"(resid_pre|resid_post|mlp_in|mlp_out|attn_z)\.-?\d+|embed")


class End(StrEnum):
    """Which end of a module: the hidden states that go in, or those that come out."""

    input = "input"
    output = "output"


@dataclass(frozen=True, slots=True)
class Site:
    """One end of one module. `layer` is its index in its stack of layers, None outside of any."""

    name: str
    module_path: str
    end: End
    layer: int | None


def resolve(model: PreTrainedModel, name: str) -> Site:
    """Find the site that `name` stands for.

    In every family of `FAMILIES`, for layer i: `resid_pre.i` and `resid_post.i`, the residual
    stream before and after the layer; `mlp_in.i`, what enters the MLP, just after its norm;
    `mlp_out.i`, what the MLP adds to the residual stream; `attn_z.i`, the attention heads' outputs
    concatenated, before W_O; and `embed`, the token embedding. In any model
    `path.to.module.input` and `path.to.module.output`, as `named_modules` spells paths.

    Raises UserError, with the nearest names, if there is no such place.
    """
    if not _SHORT_NAME.fullmatch(name):
        return _resolve_path(model, name)
    if family_of(model) is None:
        raise UserError(
            f"found site {name} in a model of type {model.config.model_type}, which has no short "
            f"names; expected one of {', '.join(FAMILIES)}; name path.to.module.output"
        )
    sites = _short_names(model)
    if name not in sites:
        last = max(site.layer for site in sites.values() if site.layer is not None)
        raise UserError(f"found site {name}; expected a layer from 0 to {last}; correct the name")
    return sites[name]


def layer_place(model: nn.Module, module_path: str) -> tuple[str, int] | None:
    """Path of the outermost ModuleList around a module, and the module's index in it."""
    parts = module_path.split(".")
    for depth in range(len(parts) - 1):
        stack = ".".join(parts[: depth + 1])
        if isinstance(model.get_submodule(stack), nn.ModuleList):
            return stack, int(parts[depth + 1])
    return None


def _short_names(model: PreTrainedModel) -> dict[str, Site]:
    """All sites of a model that have a short name, by it; none in an unknown family."""
    family = family_of(model)
    if family is None:
        return {}
    prefix, decoder = decoder_of(model)
    inside = f"{prefix}." if prefix else ""
    sites = [Site("embed", inside + family.embed, End.output, None)]
    for layer, _ in enumerate(decoder.get_submodule(family.layers).children()):
        at = f"{inside}{family.layers}.{layer}"
        sites += [
            Site(f"resid_pre.{layer}", at, End.input, layer),
            Site(f"resid_post.{layer}", at, End.output, layer),
            Site(f"mlp_in.{layer}", f"{at}.{family.mlp}", End.input, layer),
            Site(f"mlp_out.{layer}", f"{at}.{family.mlp_out}", End.output, layer),
            Site(f"attn_z.{layer}", f"{at}.{family.attention_out}", End.input, layer),
        ]
    return {site.name: site for site in sites}


def _resolve_path(model: PreTrainedModel, name: str) -> Site:
    path, _, end = name.rpartition(".")
    paths = {module_path for module_path, _ in model.named_modules() if module_path}
    if path not in paths or end not in list(End):
        long_names = [f"{path}.{end}" for path in sorted(paths) for end in End]
        near = get_close_matches(name, [*_short_names(model), *long_names], n=3)
        hint = f"did you mean {', '.join(near)}" if near else "see model.named_modules()"
        raise UserError(
            f"found site {name}; expected a short name such as resid_post.3, or "
            f"path.to.module.input or .output of a module that exists; {hint}"
        )
    place = layer_place(model, path)
    return Site(name, path, End(end), place[1] if place else None)
