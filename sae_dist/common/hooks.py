"""Sites under the names that other libraries give them."""

import re
from difflib import get_close_matches

from sae_dist.common.errors import UserError
from sae_dist.common.joint import is_joint
from sae_dist.common.patterns import at_layer

_HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_post": "blocks.{}.hook_resid_post",
    "mlp_in": "blocks.{}.ln2.hook_normalized",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "attn_z": "blocks.{}.attn.hook_z",
}
_BEHIND_GAIN = "blocks.{}.mlp.hook_in"  # of TransformerBridge; HookedTransformer has none there
_EMBED = "embed", "hook_embed"
_SHORT = re.compile(rf"({'|'.join(_HOOKS)})\.(\d+)")
_WRAPPERS = r"(?:(?:base_model|model|transformer|gpt_neox|language_model|decoder)\.)*"
_NAMES = {  # patterns of what is read, and our short names
    **{re.escape(hook).replace(r"\{\}", r"(\d+)"): short for short, hook in _HOOKS.items()},
    r"blocks\.(\d+)\.mlp\.hook_in": "mlp_in",  # TransformerBridge's, as the next two
    r"blocks\.(\d+)\.hook_in": "resid_pre",
    r"blocks\.(\d+)\.hook_out": "resid_post",
    r"resid_post_layer_(\d+)": "resid_post",  # dictionary_learning's
    rf"{_WRAPPERS}(?:layers|h|blocks)\.(\d+)": "resid_post",  # sparsify's: what comes out
    rf"{_WRAPPERS}(?:layers|h|blocks)\.(\d+)\.mlp": "mlp_out",
}


def hook_name(site: str, *, folds_norms: bool = True) -> str:
    """TransformerLens' name of one of our short names; others, paths of modules, stay as they are.

    `mlp_in` is behind the norm's gain, and `ln2.hook_normalized` before it: only where the gain was
    folded away are they the same.
    """
    match = _SHORT.fullmatch(site)
    if match:
        is_behind = match[1] == "mlp_in" and not folds_norms
        return (_BEHIND_GAIN if is_behind else _HOOKS[match[1]]).format(match[2])
    return _EMBED[1] if site == _EMBED[0] else site


def site_of(name: str) -> str:
    """Our short name of what TransformerLens, sparsify or dictionary_learning call `name`.

    Other names, our own among them, stay as they are.
    """
    for pattern, short in _NAMES.items():
        if match := re.fullmatch(pattern, name):
            return f"{short}.{match[1]}"
    return _EMBED[0] if name == _EMBED[1] else name


def layer_of(site: str) -> int | None:
    """The layer in a site's name; None where there is none, or where it is of several sites."""
    match = re.search(r"\.(\d+)(\.|$)", site)
    return int(match[1]) if match and not is_joint(site) else None


def require_site(key: str, name: str) -> None:
    """Refuse a name or pattern that no language model has a site by, with the nearest that is one.

    Raises:
        UserError: it is neither a short name nor a path that ends with .input or .output.
    """
    one = at_layer(name, 0)
    if one == _EMBED[0] or _SHORT.fullmatch(one) or one.endswith((".input", ".output")):
        return
    kind, _, layer = name.rpartition(".")
    near = [
        f"{other}.{layer}" for other in get_close_matches(kind, _HOOKS, n=1) if layer.isdecimal()
    ]
    meant = site_of(name) if site_of(name) != name else next(iter(near), None)
    hint = f"that is {meant} here" if meant else "see sae-dist harvest --help"
    raise UserError(
        f"{key}={name}; expected a site such as resid_post.3 or embed, or path.to.module.input or "
        f".output; {hint}"
    )
