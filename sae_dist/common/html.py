"""What the pages that we write have in common: one style, and how data is put into them."""

import json
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# First to last. Hue and lightness both change, so that neighbours differ without colour vision, and
# all have a contrast of 3 and more with the page's ground.
_ON_LIGHT = ("481a78", "2b62b8", "0e8a80", "b37400")
_ON_DARK = ("7050e6", "4aa3ff", "4fe0b4", "ffe08a")


def environment(package: str) -> Environment:
    """The templates of a package, and those for all pages: `base.css.jinja`, which is given the
    colours `light` and `dark` of a `palette`.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("sae_dist.common")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inert_json(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`, which no text within it can end."""
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))


def palette(num_colours: int, dark: bool) -> list[str]:
    """Colours from first to last, that read on a light or on a dark ground."""
    anchors = [
        [int(a[i : i + 2], 16) for i in (0, 2, 4)] for a in (_ON_DARK if dark else _ON_LIGHT)
    ]
    colours = []
    for index in range(num_colours):
        place = (len(anchors) - 1) * index / max(num_colours - 1, 1)
        below = min(int(place), len(anchors) - 2)
        pairs = zip(anchors[below], anchors[below + 1], strict=True)
        mixed = (round(a + (b - a) * (place - below)) for a, b in pairs)
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return colours
