"""Names of the places in a language model where activations are read or written."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from torch import nn
from transformers import PreTrainedModel

from sae_dist.common.errors import UserError
from sae_dist.lm.families import FAMILIES, Family, decoder_of, family_of

_LAYER_SITES = ("resid_pre", "resid_post", "mlp_in", "mlp_out", "attn_z")
_SHORT_NAME = re.compile(rf"({'|'.join(_LAYER_SITES)})\.(-?\d+)|embed")


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
    short = _SHORT_NAME.fullmatch(name)
    if not short:
        return _resolve_path(model, name)
    family = family_of(model)
    if family is None:
        raise UserError(
            f"found site {name} in a model of type {model.config.model_type}, which has no short "
            f"names; expected one of {', '.join(FAMILIES)}; name path.to.module.output"
        )
    kind, layer = (short[1], int(short[2])) if short[1] else ("embed", None)
    prefix, decoder = decoder_of(model)
    num_layers = len(decoder.get_submodule(family.layers))  # type: ignore[arg-type]
    if layer is not None and not 0 <= layer < num_layers:
        raise UserError(
            f"found site {name}; expected a layer from 0 to {num_layers - 1}; correct the name"
        )
    inside, end = _place(family, kind, layer)
    return Site(name, ".".join(filter(None, (prefix, inside))), end, layer)


def layer_place(model: nn.Module, module_path: str) -> tuple[str, int] | None:
    """Path of the outermost ModuleList around a module, and the module's index in it."""
    parts = module_path.split(".")
    for depth in range(len(parts) - 1):
        stack = ".".join(parts[: depth + 1])
        if isinstance(model.get_submodule(stack), nn.ModuleList):
            return stack, int(parts[depth + 1])
    return None


def _place(family: Family, kind: str, layer: int | None) -> tuple[str, End]:
    """Path inside the decoder, and end, of a short name."""
    at = f"{family.layers}.{layer}"
    return {
        "embed": (family.embed, End.output),
        "resid_pre": (at, End.input),
        "resid_post": (at, End.output),
        "mlp_in": (f"{at}.{family.mlp}", End.input),
        "mlp_out": (f"{at}.{family.mlp_out}", End.output),
        "attn_z": (f"{at}.{family.attention_out}", End.input),
    }[kind]


def _resolve_path(model: PreTrainedModel, name: str) -> Site:
    path, _, end = name.rpartition(".")
    paths = {module_path for module_path, _ in model.named_modules() if module_path}
    if path not in paths or end not in list(End):
        near = get_close_matches(name, _known_names(model, paths), n=3)
        hint = f"did you mean {', '.join(near)}" if near else "see model.named_modules()"
        raise UserError(
            f"found site {name}; expected a short name such as resid_post.3, or "
            f"path.to.module.input or .output of a module that exists; {hint}"
        )
    place = layer_place(model, path)
    return Site(name, path, End(end), place[1] if place else None)


def _known_names(model: PreTrainedModel, paths: set[str]) -> list[str]:
    """Every name that `resolve` takes."""
    long_names = [f"{path}.{end}" for path in sorted(paths) for end in End]
    family = family_of(model)
    if family is None:
        return long_names
    layers = decoder_of(model)[1].get_submodule(family.layers)
    num_layers = len(layers)  # type: ignore[arg-type]
    short_names = [f"{kind}.{layer}" for kind in _LAYER_SITES for layer in range(num_layers)]
    return [*short_names, "embed", *long_names]
