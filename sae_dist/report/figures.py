"""The figures of an evaluation: what is drawn, and what its caption says of it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from sae_dist.report.looks import Look, family_of, grouped, place_of, width_label
from sae_dist.report.results import FiringFrequency, RungResult, RunResults
from sae_dist.report.svg import QUIET, draw, scale, series_colour, set_ticks


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing; a title above and a note below it where there are several."""

    svg: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels under one title and one caption."""

    title: str
    caption: str
    panels: list[Panel]


@dataclass(frozen=True, slots=True)
class _Measure:
    """What an axis shows of a rung, None where it was not measured."""

    label: str
    of: Callable[[RungResult], float | None]


_L0 = _Measure("L0 (active latents a token)", lambda rung: rung.l0)
_FVU = _Measure("FVU", lambda rung: rung.fvu)
_DELTA_LOSS = _Measure("delta LM loss (nats a token)", lambda rung: rung.delta_loss)
_WIDTH = _Measure("width (latents)", lambda rung: rung.num_latents)


def fidelity_figures(results: RunResults, looks: dict[str, Look]) -> list[Figure]:
    """FVU and delta loss against L0, and FVU against width; a panel a site."""
    figures = [
        Figure(
            "FVU against L0",
            "Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − μ‖² with μ the mean over the "
            "whole evaluation set, against the mean number of non-zero latents a token. Down "
            "and left is better; lines join coders of one width and kind. Corresponds to Gemma "
            "Scope (Lieberum et al. 2024), fig. 13.",
            _scatter_by_site(results, looks, "fvu-l0", _L0, _FVU),
        ),
        Figure(
            "Delta loss against L0",
            "CE(spliced) − CE(clean): how much the language model’s cross-entropy rises when the "
            "coder’s output takes the place of what it reconstructs; mean over predicted "
            "non-special tokens. Down and left is better; lines join coders of one width and "
            "kind. Corresponds to Gemma Scope, figs. 2 and 4.",
            _scatter_by_site(results, looks, "delta-loss-l0", _L0, _DELTA_LOSS),
        ),
        Figure(
            "FVU against width",
            "Fraction of variance unexplained by number of latents; lines join coders of one kind "
            "and k. Those of JumpReLU differ in L0 as well.",
            _scatter_by_site(results, looks, "fvu-width", _WIDTH, _FVU),
        ),
    ]
    return [figure for figure in figures if figure.panels]


def frequency_figures(results: RunResults, looks: dict[str, Look]) -> list[Figure]:
    """Histograms of firing frequencies; a panel a kind, a curve a width."""
    histograms = {r.name: r.firing_frequency for r in results.rungs if r.firing_frequency}
    groups = grouped(histograms, lambda name: looks[name].group)
    caption = (
        "On which share of non-special tokens a latent is active (log₁₀), as per cent of the "
        "coder’s latents in each bin; those that never fired are counted below the panel. "
        "Corresponds to Gemma Scope (Lieberum et al. 2024), fig. 5."
    )
    panels = [
        Panel(
            _draw_histograms(f"frequency-{index}", names, histograms, looks),
            group,
            "Never fired: "
            + ", ".join(f"{histograms[name].never:,} of {looks[name].label}" for name in names),
        )
        for index, (group, names) in enumerate(groups.items())
    ]
    return [Figure("Firing frequency", caption, panels)] if panels else []


def _scatter_by_site(
    results: RunResults, looks: dict[str, Look], key: str, x: _Measure, y: _Measure
) -> list[Panel]:
    """Measures of different sites cannot be compared: each gets a panel."""
    rungs = [r for r in results.rungs if x.of(r) is not None and y.of(r) is not None]
    places = grouped(rungs, place_of)
    return [
        Panel(_draw_scatter(f"{key}-{i}", members, looks, x, y), place if len(places) > 1 else "")
        for i, (place, members) in enumerate(places.items())
    ]


def _draw_scatter(
    key: str, rungs: list[RungResult], looks: dict[str, Look], x: _Measure, y: _Measure
) -> str:
    points = {rung.name: (x.of(rung) or 0.0, y.of(rung) or 0.0) for rung in rungs}

    def paint(ax: Axes) -> None:
        scale(ax, "x", [point[0] for point in points.values()])
        scale(ax, "y", [point[1] for point in points.values()])
        if x is _WIDTH:
            _ticks_at_widths(ax, rungs)
        for names in _lines(rungs, x):
            colour = QUIET if x is _WIDTH else series_colour(looks[names[0]].colour)
            ax.plot(*zip(*sorted(points[name] for name in names), strict=True), color=colour)
        for name, point in points.items():
            look = looks[name]
            colour = series_colour(look.colour)
            ax.plot(*point, look.marker, color=colour, markersize=7.5, gid=look.gid)
        ax.set(xlabel=x.label, ylabel=y.label)

    tooltips = {
        looks[name].gid: f"{name}: {x.label} {point[0]:.4g}, {y.label} {point[1]:.4g}"
        for name, point in points.items()
    }
    return draw(key, paint, tooltips)


def _lines(rungs: list[RungResult], x: _Measure) -> list[list[str]]:
    """Names of the rungs that one line joins: those that differ in what the axis shows alone."""
    if x is _WIDTH:
        lines = grouped(rungs, lambda rung: f"{family_of(rung)} {rung.k}").values()
        return [
            [r.name for r in line]
            for line in lines
            if len({r.num_latents for r in line}) == len(line)
        ]
    lines = grouped(rungs, lambda rung: f"{family_of(rung)} {rung.num_latents}").values()
    return [[rung.name for rung in line] for line in lines]


def _ticks_at_widths(ax: Axes, rungs: list[RungResult]) -> None:
    widths = sorted({rung.num_latents for rung in rungs})
    ax.set(xscale="log", xlim=(widths[0] / 1.25, widths[-1] * 1.25))
    set_ticks(ax, "x", FixedLocator(widths), lambda width: width_label(round(width)))


def _draw_histograms(
    key: str, names: list[str], histograms: dict[str, FiringFrequency], looks: dict[str, Look]
) -> str:
    """Those of `names`, on axes that fit all `histograms`: panels can be compared at a glance."""
    percents = {name: _percents(frequency) for name, frequency in histograms.items()}

    def paint(ax: Axes) -> None:
        for name in names:
            look = looks[name]
            colour = series_colour(look.colour)
            edges = histograms[name].edges_log10
            ax.stairs(percents[name], edges, color=colour, linewidth=1.5, gid=look.gid)
        scale(ax, "x", [edge for item in histograms.values() for edge in _fired_edges(item)])
        scale(ax, "y", [0.0, *(value for values in percents.values() for value in values)])
        ax.set_ylim(bottom=0)
        ax.set(xlabel="log₁₀ firing frequency", ylabel="share of latents (%)")

    return draw(key, paint, {looks[name].gid: name for name in names})


def _percents(frequency: FiringFrequency) -> list[float]:
    num_latents = sum(frequency.counts) + frequency.never
    return [100 * count / max(num_latents, 1) for count in frequency.counts]


def _fired_edges(frequency: FiringFrequency) -> list[float]:
    """The edges of the bins in which there is a latent; all edges where there is none."""
    bins = [index for index, count in enumerate(frequency.counts) if count]
    edges = frequency.edges_log10
    return edges[bins[0] : bins[-1] + 2] if bins else edges
