"""Which rungs are compared."""

from itertools import groupby, pairwise
from typing import Any


def neighbours(rungs: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(smaller, larger): each rung with that of the next lower width whose L0 is nearest, among
    those of its kind, form, site and target.
    """

    def family(name: str) -> tuple[Any, ...]:
        return tuple(rungs[name][key] for key in ("kind", "form", "site", "target"))

    pairs = []
    for _, own in groupby(sorted(rungs, key=family), key=family):
        names = list(own)
        widths = sorted({rungs[name]["num_latents"] for name in names})
        for below, width in pairwise(widths):
            smaller = [name for name in names if rungs[name]["num_latents"] == below]
            for larger in (name for name in names if rungs[name]["num_latents"] == width):
                l0 = rungs[larger]["l0"]
                pairs.append((min(smaller, key=lambda n: abs(rungs[n]["l0"] - l0)), larger))
    return pairs
