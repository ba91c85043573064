"""Sites under the names that TransformerLens gives them."""

import re

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
