"""How many latents a wider coder leaves unused."""

from typing import Any

from sae_dist.evaluate.ladder.groups import Rungs, groups


def dead_by_width(rungs: Rungs) -> list[dict[str, Any]]:
    """The share of latents that never fired, by width, for each kind, form, site and target."""
    shown = ("num_latents", "l0", "dead_share")
    return [
        alike | {"points": [{"rung": n} | {key: r[key] for key in shown} for n, r in own.items()]}
        for alike, own in groups(rungs)
    ]
