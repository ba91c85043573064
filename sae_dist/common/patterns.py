"""Several sites in one word: `resid_post.*`, `mlp_in.4-7`, `attn_z.0-24/4`, and several rungs.

`*` are all layers, `A-B` those from A to B, `/N` every N-th of them from the first on.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from sae_dist.common.errors import UserError

_LAYERS = re.compile(r"(?<=\.)(\*|(\d+)-(\d+))(?:/([1-9]\d*))?(?=\.|$)")


def is_pattern(name: str) -> bool:
    """Whether a site's name stands for several."""
    return _LAYERS.search(name) is not None


def at_layer(pattern: str, layer: int) -> str:
    """The name of the site at one layer; one that is no pattern stays as it is."""
    return _LAYERS.sub(str(layer), pattern, count=1)


def expand(pattern: str, layers: Collection[int]) -> list[str]:
    """The sites that a pattern stands for, in the order of their layers.

    Raises:
        UserError: a layer that is asked for is not among `layers`, or none is.
    """
    match = _LAYERS.search(pattern)
    if match is None:
        return [pattern]
    step = int(match[4] or 1)
    if match[1] == "*":
        asked = sorted(layers)[::step]
    else:
        asked = list(range(int(match[2]), int(match[3]) + 1, step))
    missing = [at_layer(pattern, layer) for layer in asked if layer not in layers]
    if missing or not asked:
        known = f"layers {min(layers)} to {max(layers)}" if layers else "a site of that name"
        raise UserError(
            f"found {pattern}, of which there is no {missing[0] if missing else 'site'}; expected "
            f"{known}; correct it"
        )
    return [at_layer(pattern, layer) for layer in asked]


def matching(pattern: str, sites: Iterable[str]) -> list[str]:
    """Those of `sites` that a pattern stands for; a name that is none stays as it is.

    Raises:
        UserError: one of them is not there, or none is.
    """
    if (match := _LAYERS.search(pattern)) is None:
        return [pattern]
    before, after = map(re.escape, (pattern[: match.start()], pattern[match.end() :]))
    found = (re.fullmatch(rf"{before}(\d+){after}", site) for site in sites)
    return expand(pattern, {int(one[1]) for one in found if one})


def rungs_asked_for(asked: Iterable[str] | None, names: Collection[str], of: str) -> list[str]:
    """Those of `names` that are asked for, by name or a pattern such as `topk-*`; all, if None is.

    Args:
        of: whose rungs these are, for the message.

    Raises:
        UserError: one that is asked for stands for none.
    """
    found = []
    for one in ["*"] if asked is None else asked:
        found += [name for name in names if fnmatchcase(name, one)]
        if not any(fnmatchcase(name, one) for name in names):
            raise UserError(
                f"rungs={one}; expected rungs of {of}: {', '.join(names)}, or patterns such as "
                "topk-*; choose some of them"
            )
    return list(dict.fromkeys(found))
