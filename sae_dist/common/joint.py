"""Several sites side by side as one: `resid_post.2+resid_post.5`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from sae_dist.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_AND, _OF = "+", ":"


def join(sites: Iterable[str]) -> str:
    """The name of sites side by side."""
    return _AND.join(sites)


def parts_of(site: str) -> list[str]:
    """The sites that stand side by side in one; a site alone is its only part."""
    return site.split(_AND)


def is_joint(site: str) -> bool:
    """Whether a name is that of several sites."""
    return _AND in site


def model_and_site(site: str) -> tuple[str, str]:
    """The name of the store that a site is of, and the site there; "" is the first store."""
    of, _, name = site.rpartition(_OF)
    return of, name


def at_model(of: str, site: str) -> str:
    """What `model_and_site` takes apart."""
    return f"{of}{_OF}{site}"


def is_of_several_models(site: str) -> bool:
    """Whether sites side by side are of other language models than the first store's, too."""
    return any(model_and_site(part)[0] for part in parts_of(site))


def width_of(widths: Mapping[str, int], site: str) -> int | None:
    """The width of sites side by side; None where one of them is not among `widths`.

    Raises:
        UserError: they are not of one width.
    """
    found = {part: widths.get(part) for part in parts_of(site)}
    if None in found.values():
        return None
    if len({*found.values()}) > 1:
        told = ", ".join(f"{part} of {width}" for part, width in found.items())
        raise UserError(f"found {told} side by side; expected sites of one width; choose such")
    return sum(width for width in found.values() if width)


def joined(acts: Mapping[str, Tensor], site: str) -> Tensor:
    """Activations [..., D] of sites side by side, from those of each; of one as they are."""
    parts = parts_of(site)
    if len(parts) == 1:
        return acts[site]
    import torch  # only here, as names are read without it

    return torch.cat([acts[part] for part in parts], -1)


def short_name(site: str) -> str:
    """What a folder can be called after a site, as `resid_post.0-3+7`."""
    split = [part.replace(_OF, ".").rpartition(".") for part in parts_of(site)]
    found = []
    for stem, alike in groupby(split, key=lambda one: one[0]):
        layers = _AND.join(_runs([layer for *_, layer in alike]))
        found.append(f"{stem}.{layers}" if stem else layers)
    return _AND.join(found)


def _runs(layers: list[str]) -> list[str]:
    """Layers that follow each other as `0-3`."""
    runs: list[list[str]] = []
    for layer in layers:
        follows = runs and layer.isdecimal() and runs[-1][-1].isdecimal()
        if follows and int(layer) == int(runs[-1][-1]) + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return [f"{run[0]}-{run[-1]}" if len(run) > 2 else _AND.join(run) for run in runs]
