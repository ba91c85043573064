"""The figures of a training: how what was logged went, step by step."""

import re

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import Curve, Figure, Panel, curve_panels, drawn
from sae_dist.report.results import RunResults
from sae_dist.report.styles import Style
from sae_dist.report.svg import ACCENT, draw, scale

_MAX_POINTS = 240
_LOGGED = [
    (
        "fvu",
        "FVU",
        "FVU (fraction of variance)",
        "Of the training batch: what TopK and BatchTopK minimise, if their loss has no other part.",
    ),
    ("l0", "L0", "L0 (active latents a token)", "Mean over the training batch."),
    ("dead_share", "Dead latents", "share of latents", "Those training counts as dead."),
    ("loss", "Loss", "loss", "What is minimised; each kind has a sum of its own."),
]


def training_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """Measures and losses of every rung; a figure a measure, a panel a kind, a curve a rung.

    What a rung has shown already, under another name, is not drawn again.
    """
    parts = sorted({key for line in results.metrics for key in line if key.startswith("loss/")})
    logged = [
        *_LOGGED,
        *((key, f"Loss part: {key[5:]}", key, "As it enters the loss.") for key in parts),
    ]
    figures: list[Figure] = []
    shown: dict[str, list[Curve]] = {name: [] for name in looks}
    for key, title, label, caption in logged:
        curves = {name: results.curve(name, key) for name in looks}
        new = [name for name, curve in curves.items() if curve not in shown[name]]
        for name in new:
            shown[name].append(curves[name])
        figures.append(
            Figure(title, caption, _panels(results, looks, "training-", key, label, new))
        )
    return drawn(figures)


def training_figures_of(name: str, results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """How one rung's FVU and L0 went."""
    prefix = f"{looks[name].anchor}-training-"
    return drawn(
        [
            Figure(
                f"{title} in training",
                caption,
                _panels(results, looks, prefix, key, label, [name]),
            )
            for key, title, label, caption in _LOGGED[:2]
        ]
    )


def throughput_figures(results: RunResults) -> list[Figure]:
    """Speed of the whole ladder."""
    speed = results.curve(None, "tokens_per_second")
    steps, shares = results.curve(None, "stall_share")
    percents = [100 * share for share in shares]
    return drawn(
        [
            Figure(
                "Tokens a second",
                "Tokens of the stream, each counted once however many rungs train on it.",
                _lone_panel("tokens-per-second", speed, "tokens a second"),
            ),
            Figure(
                "Waiting for data",
                "Share of the time in which training stood still for its next batch.",
                _lone_panel("stall-share", (steps, percents), "share of time (%)"),
            ),
        ]
    )


def thin(steps: list[int], values: list[float]) -> Curve:
    """At most 240 points of a curve, each the mean over equally many that follow each other."""
    size = -(-len(steps) // _MAX_POINTS) or 1
    blocks = [slice(start, start + size) for start in range(0, len(steps), size)]
    return [_mean(steps[block]) for block in blocks], [_mean(values[block]) for block in blocks]


def _panels(
    results: RunResults,
    looks: dict[str, Style],
    prefix: str,
    key: str,
    label: str,
    names: list[str],
) -> list[Panel]:
    curves = {name: thin(*results.curve(name, key)) for name in names}
    return curve_panels(prefix + re.sub(r"\W", "-", key), curves, looks, ("step", label))


def _lone_panel(key: str, points: tuple[list[int], list[float]], label: str) -> list[Panel]:
    steps, values = thin(*points)

    def paint(ax: Axes) -> None:
        ax.plot(steps, values, color=ACCENT)
        scale(ax, "x", steps, log=False)
        scale(ax, "y", [0.0, *values])
        ax.set(xlabel="step", ylabel=label)

    return [Panel(draw(key, paint))] if steps else []


def _mean(values: list[int] | list[float]) -> float:
    return sum(values) / len(values)
