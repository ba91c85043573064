"""Rungs as points: one figure of theirs against another."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import Panel, mark
from sae_dist.report.measures import L0, Measure
from sae_dist.report.numbers import number
from sae_dist.report.results import RungResult, RunResults
from sae_dist.report.styles import Style, family_of, grouped, place_of
from sae_dist.report.svg import QUIET, draw, scale, series_colour, width_axis


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows of a rung; `measure` None: its width."""

    label: str
    measure: Measure | None = None

    def of(self, rung: RungResult) -> float | None:
        """None where it was not measured."""
        return self.measure.of(rung) if self.measure else rung.num_latents


L0_AXIS = Axis("L0 (active latents a token)", L0)
WIDTH_AXIS = Axis("width (latents)")


def scatter_by_place(
    results: RunResults, looks: dict[str, Style], key: str, x: Axis, y: Axis
) -> list[Panel]:
    """Measures of different sites cannot be compared: each gets a panel."""
    rungs = [r for r in results.rungs if x.of(r) is not None and y.of(r) is not None]
    places = grouped(rungs, place_of)
    return [
        Panel(_draw(f"{key}-{index}", members, looks, x, y), place if len(places) > 1 else "")
        for index, (place, members) in enumerate(places.items())
    ]


def _draw(key: str, rungs: list[RungResult], looks: dict[str, Style], x: Axis, y: Axis) -> str:
    points = {rung.name: (x.of(rung) or 0.0, y.of(rung) or 0.0) for rung in rungs}

    def paint(ax: Axes) -> None:
        scale(ax, "x", [point[0] for point in points.values()])
        scale(ax, "y", [point[1] for point in points.values()])
        if x is WIDTH_AXIS:
            width_axis(ax, [rung.num_latents for rung in rungs])
        for names in _lines(rungs, x):
            colour = QUIET if x is WIDTH_AXIS else series_colour(looks[names[0]].colour)
            ax.plot(*zip(*sorted(points[name] for name in names), strict=True), color=colour)
        for name, point in points.items():
            mark(ax, looks[name], *point, size=7.5)
        ax.set(xlabel=x.label, ylabel=y.label)

    tooltips = {
        looks[name].gid: f"{name}: {x.label} {number(point[0])}, {y.label} {number(point[1])}"
        for name, point in points.items()
    }
    return draw(key, paint, tooltips)


def _lines(rungs: list[RungResult], x: Axis) -> list[list[str]]:
    """Names of the rungs that one line joins: those that differ in what the axis shows alone."""
    if x is WIDTH_AXIS:
        lines = grouped(rungs, lambda rung: f"{family_of(rung)} {rung.k}").values()
        return [
            [r.name for r in line]
            for line in lines
            if len({r.num_latents for r in line}) == len(line)
        ]
    lines = grouped(rungs, lambda rung: f"{family_of(rung)} {rung.num_latents}").values()
    return [[rung.name for rung in line] for line in lines]
