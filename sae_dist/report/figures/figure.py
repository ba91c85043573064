"""What a figure is, and the panels that several kinds of figures share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from sae_dist.report.styles import Style, grouped
from sae_dist.report.svg import GRID, draw, page_url, scale, series_colour

GEMMA_SCOPE = "Gemma Scope (Lieberum et al. 2024)"
STITCHING = "Leask et al. (2025)"
TRANSCODERS = "Paulo et al. (2025)"
SCALING = "Gao et al. (2024)"
Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing; a title above and a note below it where there are several."""

    svg: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels under one title and one caption; `source` names the figure of a paper like it."""

    title: str
    caption: str
    panels: list[Panel]
    source: str = ""


def drawn(figures: list[Figure]) -> list[Figure]:
    """Those in which there is something."""
    return [figure for figure in figures if figure.panels]


def mark(ax: Axes, look: Style, x: float, y: float, size: float = 6) -> None:
    """A rung's mark, which leads to its page."""
    ax.plot(
        x,
        y,
        look.marker,
        color=series_colour(look.colour),
        markersize=size,
        gid=look.gid,
        url=page_url(look.anchor),
    )


def curve_panels(
    key: str,
    curves: dict[str, Curve],
    looks: dict[str, Style],
    labels: tuple[str, str],
    log: tuple[bool, bool] = (False, True),
) -> list[Panel]:
    """A panel a kind and site, a curve a rung. Kinds at one site share their scale."""
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    groups = grouped(curves, lambda name: looks[name].group)

    def panel(index: int, names: list[str]) -> str:
        place = looks[names[0]].place
        shown = [curve for name, curve in curves.items() if looks[name].place == place]

        def paint(ax: Axes) -> None:
            for name in names:
                look = looks[name]
                colour = series_colour(look.colour)
                ax.plot(*curves[name], color=colour, linestyle=look.line, gid=look.gid)
            scale(ax, "x", [x for xs, _ in shown for x in xs], log=log[0])
            scale(ax, "y", [y for _, ys in shown for y in ys], log=log[1])
            ax.set(xlabel=labels[0], ylabel=labels[1])

        return draw(f"{key}-{index}", paint, {looks[name].gid: name for name in names})

    return [
        Panel(panel(index, names), group) for index, (group, names) in enumerate(groups.items())
    ]


def stairs_panel(
    key: str,
    histograms: dict[str, tuple[Sequence[float], Sequence[float]]],
    looks: dict[str, Style],
    limits: tuple[Sequence[float], Sequence[float]],
    labels: tuple[str, str],
) -> str:
    """Histograms (edges, heights) as outlines, on axes that show `limits`."""

    def paint(ax: Axes) -> None:
        for name, (edges, heights) in histograms.items():
            look = looks[name]
            colour, line = series_colour(look.colour), look.line
            ax.stairs(heights, edges, color=colour, linewidth=1.5, linestyle=line, gid=look.gid)
        scale(ax, "x", limits[0], log=False)
        scale(ax, "y", [0.0, *limits[1]])
        ax.set_ylim(bottom=0)
        ax.set(xlabel=labels[0], ylabel=labels[1])

    return draw(key, paint, {looks[name].gid: name for name in histograms})


def rows_panel(
    key: str,
    labels: Sequence[str],
    paint_rows: Callable[[Axes], None],
    values: Sequence[float],
    xlabel: str,
    tooltips: dict[str, str],
    log: bool = True,
) -> str:
    """A row a label, from top to bottom at y = 0, 1, …, with `values` on the axis below."""

    def paint(ax: Axes) -> None:
        paint_rows(ax)
        scale(ax, "x", values, log=log)
        ax.set(xlabel=xlabel, ylim=(len(labels) - 0.5, -0.5))
        if ax.get_xscale() == "log":  # few ticks have room beside the labels
            low, high = ax.get_xlim()
            few = LogLocator(subs=(1, 3)) if high / low < 100 else LogLocator(numticks=5)
            ax.xaxis.set_major_locator(few)
        ax.yaxis.set_major_locator(FixedLocator(range(len(labels))))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_yticklabels(labels)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        if min(values) < 0 < max(values):
            ax.axvline(0, color=GRID, linewidth=1.2)

    widest = max(len(label) for label in labels)
    height, left = 0.75 + 0.26 * len(labels), min(0.2 + 0.075 * widest, 2.6)
    return draw(key, paint, tooltips, height=height, left=left)
