"""Autoencoders, transcoders and skip transcoders of one MLP, side by side."""

from typing import Any

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.common.groups import Rungs
from sae_dist.common.hooks import layer_of
from sae_dist.evaluate.measure import Figures, LadderMeasure
from sae_dist.evaluate.topics import COMPARISON, TRANSCODERS

_ALIKE = ("target", "num_latents", "k")
_SHOWN = (
    *("kind", "form", "site", "target", "num_latents", "k", "l0", "fvu"),
    *("delta_loss", "ce_increase_percent", "loss_recovered", "dead_share"),
)
_ORDER = ("autoencoder", "transcoder", "skip_transcoder")


class Forms(LadderMeasure):
    """Rungs of several forms that reconstruct the same activations.

    They have equal targets, widths and k, a JumpReLU's k being the L0 it aimed at. An autoencoder
    among them reads what it reconstructs: the output of the MLP. Rungs without others of another
    form are left out, and JumpReLUs with a fixed λ, whose L0 is whatever came of it.
    """

    name = "forms"
    topic = COMPARISON
    group = "Forms compared"
    caption = "Coders of one MLP with as many latents and the same k (or L0 aimed at)."
    source = f"{TRANSCODERS}, table 1"
    table_by = "group"
    figures = (
        Figure("rung", "rung", write=Write.RUNG, is_main=True),
        Figure("family", "form", write=Write.TEXT, is_main=True),
        Figure("place", "site", write=Write.TEXT),
        Figure("l0", "L0", "mean number of active latents a token"),
        Figure("fvu", "FVU", "fraction of variance unexplained"),
        Figure("delta_loss", "Δ loss", "CE(spliced) − CE(clean)", unit="nats a token"),
        Figure("ce_increase_percent", "CE increase (%)", "100 · Δ loss / CE(clean)", is_main=True),
        Figure(
            "loss_recovered", "loss recovered", "(CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))"
        ),
        Figure("dead_share", "dead", "share of latents that never fired", write=Write.PERCENT),
    )
    plots = (
        Plot(
            "ce",
            Mark.BARS,
            "CE increase by form",
            "100 · (CE(spliced) − CE(clean)) / CE(clean): how much worse the language "
            "model predicts when the coder stands in for the MLP’s output. Less is better.",
            source=f"{TRANSCODERS}, table 1",
            y=Axis("CE increase (%)", "ce_increase_percent", log=False, zero=True),
            panel="group",
        ),
    )

    @staticmethod
    def of(rungs: Rungs) -> Figures:
        """`rows`: by `group`, one a rung; figures that a rung lacks are None."""
        found: dict[tuple[Any, ...], Rungs] = {}
        for name, figures in rungs.items():
            figures = figures | {"k": figures["k"] or figures.get("target_l0")}
            if figures["k"] is not None:
                found.setdefault(tuple(figures[key] for key in _ALIKE), {})[name] = figures
        return {
            "rows": [
                row
                for (target, num_latents, k), members in sorted(found.items())
                if len({figures["form"] for figures in members.values()}) > 1
                for row in _rows(_title(target, num_latents, k), members)
            ]
        }


def _rows(title: str, members: Rungs) -> list[dict[str, Any]]:
    rows = [
        {"group": title, "rung": name} | {key: figures.get(key) for key in _SHOWN}
        for name, figures in members.items()
    ]
    return sorted(rows, key=lambda row: (row["kind"], _ORDER.index(row["form"]), row["rung"]))


def _title(target: str, num_latents: int, k: float) -> str:
    layer = layer_of(target)
    where = target if layer is None else f"layer {layer}"
    return f"{num_latents:,} latents, k = {k:g}, {where}"
