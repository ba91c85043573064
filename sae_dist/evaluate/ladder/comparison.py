"""Autoencoders, transcoders and skip transcoders of one MLP, side by side."""

import re
from typing import Any

from sae_dist.evaluate.ladder.groups import Rungs

_ALIKE = ("target", "num_latents", "k")
_SHOWN = (
    *("kind", "form", "site", "target", "l0", "fvu"),
    *("delta_loss", "ce_increase_percent", "loss_recovered", "dead_share"),
)
_ORDER = ("autoencoder", "transcoder", "skip_transcoder")


def comparison(rungs: Rungs) -> list[dict[str, Any]]:
    """Rungs of several forms that reconstruct the same activations (Paulo et al. 2025, table 1).

    They have equal targets, widths and k, a JumpReLU's k being the L0 it aimed at. An autoencoder
    among them reads what it reconstructs: the output of the MLP. Rungs without others of another
    form are left out, and JumpReLUs with a fixed λ, whose L0 is whatever came of it.

    Returns:
        of each group `num_latents`, `k`, `layer` (None where the target's name tells none), and a
        row a rung; figures that a rung lacks are None.
    """
    found: dict[tuple[Any, ...], Rungs] = {}
    for name, figures in rungs.items():
        figures = figures | {"k": figures["k"] or figures.get("target_l0")}
        if figures["k"] is not None:
            found.setdefault(tuple(figures[key] for key in _ALIKE), {})[name] = figures
    return [
        {"num_latents": num_latents, "k": k, "layer": _layer(target), "rows": _rows(members)}
        for (target, num_latents, k), members in sorted(found.items())
        if len({figures["form"] for figures in members.values()}) > 1
    ]


def _rows(members: Rungs) -> list[dict[str, Any]]:
    rows = [
        {"rung": name} | {key: figures.get(key) for key in _SHOWN}
        for name, figures in members.items()
    ]
    return sorted(rows, key=lambda row: (row["kind"], _ORDER.index(row["form"]), row["rung"]))


def _layer(target: str) -> int | None:
    """The one number in a site's name: `mlp_out.3`, `gpt_neox.layers.3.mlp.output`."""
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", target)
    return int(numbers[0]) if len(numbers) == 1 else None
