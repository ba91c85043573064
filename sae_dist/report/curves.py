"""The figures of a training: how what was logged went, step by step."""

import re

from matplotlib.axes import Axes

from sae_dist.report.figures import Figure, Panel
from sae_dist.report.looks import Look, grouped
from sae_dist.report.results import RunResults
from sae_dist.report.svg import ACCENT, draw, scale, series_colour

Curve = tuple[list[float], list[float]]
_MAX_POINTS = 240


def training_figures(results: RunResults, looks: dict[str, Look]) -> list[Figure]:
    """Measures and losses of every rung; a figure a measure, a panel a kind, a curve a rung."""
    parts = sorted({key for line in results.metrics for key in line if key.startswith("loss/")})
    figures = [
        _figure(results, looks, key, *words)
        for key, *words in [
            ("fvu", "FVU", "FVU", "Fraction of variance unexplained, of the training batch."),
            ("l0", "L0", "L0 (active latents a token)", "Mean over the training batch."),
            ("dead_share", "Dead latents", "share of latents", "Those training counts as dead."),
            ("loss", "Loss", "loss", "What is minimised; each kind has a sum of its own."),
            *((key, f"Loss part: {key[5:]}", key, "As it enters the loss.") for key in parts),
        ]
    ]
    return [figure for figure in figures if figure.panels]


def throughput_figures(results: RunResults) -> list[Figure]:
    """Speed of the whole ladder."""
    speed = results.curve(None, "tokens_per_second")
    steps, shares = results.curve(None, "stall_share")
    percents = [100 * share for share in shares]
    figures = [
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
    return [figure for figure in figures if figure.panels]


def thin(steps: list[int], values: list[float]) -> Curve:
    """At most 240 points of a curve, each the mean over equally many that follow each other."""
    size = -(-len(steps) // _MAX_POINTS) or 1
    blocks = [slice(start, start + size) for start in range(0, len(steps), size)]
    return [_mean(steps[block]) for block in blocks], [_mean(values[block]) for block in blocks]


def _figure(
    results: RunResults, looks: dict[str, Look], key: str, title: str, label: str, caption: str
) -> Figure:
    """All panels share their scale: kinds can be compared at a glance."""
    curves = {name: thin(*results.curve(name, key)) for name in looks}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    groups = grouped(curves, lambda name: looks[name].group)
    identifier = re.sub(r"\W", "-", key)
    panels = [
        Panel(_draw_curves(f"training-{identifier}-{i}", names, curves, looks, label), group)
        for i, (group, names) in enumerate(groups.items())
    ]
    return Figure(title, caption, panels)


def _draw_curves(
    key: str, names: list[str], curves: dict[str, Curve], looks: dict[str, Look], label: str
) -> str:
    def paint(ax: Axes) -> None:
        for name in names:
            look = looks[name]
            ax.plot(*curves[name], color=series_colour(look.colour), gid=look.gid)
        scale(ax, "x", [step for steps, _ in curves.values() for step in steps], log=False)
        scale(ax, "y", [value for _, values in curves.values() for value in values])
        ax.set(xlabel="step", ylabel=label)

    return draw(key, paint, {looks[name].gid: name for name in names})


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
