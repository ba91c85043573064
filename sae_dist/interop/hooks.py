"""Sites under the names that TransformerLens and others give them."""

import re
from difflib import get_close_matches

from sae_dist.common.errors import UserError

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
_MODULE = re.compile(  # sparsify's and dictionary_learning's: what comes out of it
    r"(?:(?:base_model|model|transformer|gpt_neox|decoder|language_model)\.)*"
    r"(?:layers|h|blocks)\.(?P<layer>\d+)(?P<mlp>\.mlp)?"
)


def hook_name(site: str, *, folds_norms: bool = True) -> str:
    """The hook of one of our short names; other names, paths of modules, stay as they are.

    `mlp_in` is behind the norm's gain, and `ln2.hook_normalized` before it: only where the gain was
    folded away are they the same.
    """
    match = _SHORT.fullmatch(site)
    if match:
        is_behind = match[1] == "mlp_in" and not folds_norms
        return (_BEHIND_GAIN if is_behind else _HOOKS[match[1]]).format(match[2])
    return _EMBED[1] if site == _EMBED[0] else site


def site_of(hook: str) -> str:
    """What `hook_name` undoes."""
    for short, pattern in (*_HOOKS.items(), ("mlp_in", _BEHIND_GAIN)):
        match = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), hook)
        if match:
            return f"{short}.{match[1]}"
    return _EMBED[0] if hook == _EMBED[1] else hook


def layer_of(site: str) -> int | None:
    """The layer in a site's name; None where there is none."""
    match = re.search(r"\.(\d+)(\.|$)", site)
    return int(match[1]) if match else None


def ours(name: str) -> str | None:
    """Our site of a hook, or of a module as sparsify names it (`layers.3`); None if there is none.

    A module's path with `.output` is a site here as well; this is its short name.
    """
    site = site_of(name)
    if site != name:
        return site
    module = _MODULE.fullmatch(name)
    return f"{'mlp_out' if module['mlp'] else 'resid_post'}.{module['layer']}" if module else None


def require_site(key: str, name: str) -> None:
    """Refuse a name that no language model has a site by, with the nearest that is one.

    Raises:
        UserError: it is neither a short name nor a path that ends with .input or .output.
    """
    if name == _EMBED[0] or _SHORT.fullmatch(name) or name.endswith((".input", ".output")):
        return
    kind, _, layer = name.rpartition(".")
    near = [f"{other}.{layer}" for other in get_close_matches(kind, _HOOKS, n=1)]
    meant = ours(name) or (near[0] if near and layer.isdecimal() else None)
    hint = f"that is {meant} here" if meant else "see launch/harvest.py --help"
    raise UserError(
        f"{key}={name}; expected a site such as resid_post.3 or embed, or path.to.module.input or "
        f".output; {hint}"
    )
