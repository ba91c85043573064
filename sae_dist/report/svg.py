"""Drawings as inline SVG that takes its colours and its font from the page."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from sae_dist.report.styles import width_label

# Colours that stand for others until the SVG is written: text, lesser lines, grid, a lone curve.
INK, QUIET, GRID, ACCENT = "#010203", "#040506", "#070809", "#0c0d0e"
_COLOURS = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
}
_SERIES = "#0a0b"
_PAGE = "page:"  # stands for # in links, since those in the drawing get its key
_WIDTH, _HEIGHT = 4.3, 3.0  # inches
_LEFT, _RIGHT, _BELOW, _ABOVE = (
    0.76,
    0.1,
    0.5,
    0.08,
)  # margins: a layout engine takes thrice the time
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "sae_dist",
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


def series_colour(index: int) -> str:
    """The stand-in for colour `index` of the page's palette, `var(--series-<index>)`."""
    return f"{_SERIES}{index:02x}"


def page_url(anchor: str) -> str:
    """What an artist's `url` must be to lead to the page's part of that id."""
    return f"{_PAGE}{anchor}"


def draw(
    key: str,
    paint: Callable[[Axes], None],
    tooltips: dict[str, str] | None = None,
    height: float = _HEIGHT,
    left: float = _LEFT,
) -> str:
    """One panel as an `<svg>` element, the same bytes for the same input.

    Args:
        key: of the panel, unique on the page; every id in the SVG begins with it.
        paint: draws on the axes given.
        tooltips: what to show over the artists with these gids.
        height: in inches; all are 4.3 wide.
        left: the margin for the labels of the axis there, in inches.
    """
    with style.context(["default", _SETTINGS]):
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(
            left=left / _WIDTH,
            right=1 - _RIGHT / _WIDTH,
            bottom=_BELOW / height,
            top=1 - _ABOVE / height,
        )
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _for_the_page(file.getvalue(), key, tooltips or {})


def _for_the_page(text: str, key: str, tooltips: dict[str, str]) -> str:
    svg = text[text.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    svg = svg.replace(f'href="{_PAGE}', 'href="#')
    for gid, tooltip in tooltips.items():
        opening = f'<g id="{key}-{gid}">'
        svg = svg.replace(opening, f"{opening}<title>{escape(tooltip)}</title>")
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(_SERIES + "([0-9a-f]{2})", lambda m: f"var(--series-{int(m[1], 16)})", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 var(--sans)", svg)
    return svg.strip()


def scale(ax: Axes, which: str, values: Sequence[float], log: bool = True) -> None:
    """Limits and ticks of axis "x" or "y" that show `values`, with a small margin.

    Logarithmic, unless told otherwise, where all are positive and span more than a factor of 5.
    """
    low, high = min(values), max(values)
    if log and low > 0 and high / low > 5:
        margin = (high / low) ** 0.06
        ax.set(**{f"{which}scale": "log", f"{which}lim": (low / margin, high * margin)})
        locator: Locator = LogLocator(subs=(1, 2, 3, 5) if high / low < 50 else (1,))
    else:
        high = high or 1.0 if low == high else high  # nothing but zeros: from 0 to 1
        margin = max(0.06 * (high - low), 0.02 * max(abs(low), abs(high)))
        ax.set(**{f"{which}lim": (low - margin, high + margin)})
        locator = MaxNLocator(6, steps=[1, 2, 5, 10])
    set_ticks(ax, which, locator, compact)


def set_ticks(ax: Axes, which: str, locator: Locator, label: Callable[[float], str]) -> None:
    """Major ticks alone, where `locator` says, labelled by `label`."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))


def width_axis(ax: Axes, widths: Sequence[int]) -> None:
    """The axis below shows numbers of latents, with a tick at each of these."""
    distinct = sorted(set(widths))
    ax.set(xscale="log", xlim=(distinct[0] / 1.25, distinct[-1] * 1.25))
    set_ticks(ax, "x", FixedLocator(distinct), lambda width: width_label(round(width)))


def compact(value: float) -> str:
    """A number as short as a tick label: 0.05, 250, 20k, 1.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if size <= abs(value) < 1e9:
            return f"{value / size:g}{unit}"
    digits, _, exponent = f"{value:g}".partition("e")
    if exponent:
        digits = f"{digits}·10" if digits != "1" else "10"
        digits += str(int(exponent)).translate(_SUPERSCRIPTS)
    return digits.replace("-", "−")
