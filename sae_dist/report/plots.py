"""Declared plots as data for the page: from records to panels of series on common axes.

How they are drawn is the page's affair (`templates/plots.js`, by Vega-Lite).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sae_dist.common.declare import Axis, Mark, Plot
from sae_dist.report.numbers import written
from sae_dist.report.results import Record, at, is_finite_number, width_label
from sae_dist.report.styles import Style, grouped

Columns = dict[str, list[float]]
_QUANTILES = {f"q{q.replace('.', '')}": q for q in ("0.1", "0.25", "0.5", "0.75", "0.9")}
_ON_AXIS = {"x": ("x", "x2"), "y": ("y", "y2", "fitted", *_QUANTILES)}
_ALIKE = {"l0": "num_latents", "num_latents": "k"}  # what points of a line over this share
_SAME = 1.1  # values less than this factor apart are no reason for an axis
_LOG_FROM = 5
_MOST_NOTES = 12


def plot_data(
    plot: Plot, records: Sequence[Record], styles: Mapping[str, Style]
) -> dict[str, Any] | None:
    """A plot as the page wants it, None where no record has anything for it.

    Its `panels` have a `title`, a `note`, `scales` of x and y, and `series`, one a record: lists of
    equal length under the names in `columns`, of a `rung` that has a page, in the style of one that
    it is `like`.
    """
    if plot.each:
        records = [record | item for record in records for item in record.get(plot.each) or []]
    panels: list[dict[str, Any]] = []
    for title, own in grouped(records, lambda r: at(r, plot.panel) if plot.panel else "").items():
        x = _x_axis(plot, own)
        series = [made for record in own if (made := _series(plot, x, record, styles))]
        if series:
            of_place = own[0].get("place") if plot.panel == "family_and_place" else title
            panels.append(
                {
                    "title": str(title or ""),
                    "note": _note(plot, own, styles),
                    "labels": {"x": x.label, "y": plot.y.label},
                    "name": x.key.split("/")[-1] or "position",
                    "isByWidth": x.key == "num_latents",
                    "scales": {
                        "x": x,
                        "y": plot.y,
                        "of": "" if plot.mark is Mark.STEPS else of_place,
                    },
                    "series": series,
                }
            )
    for same in grouped(panels, lambda panel: panel["scales"].pop("of")).values():
        series = [one for panel in same for one in panel["series"]]
        for panel in same:
            panel["scales"] = {
                which: _scale(axis, series, which) for which, axis in panel["scales"].items()
            }
    shown = {panel.pop("name") for panel in panels}
    names = {"x": shown.pop() if len(shown) == 1 else "x", "y": plot.y.key.split("/")[-1]}
    about = {"key": plot.key, "mark": plot.mark, "diagonal": plot.diagonal, "names": names}
    return about | {"panels": panels} if panels else None


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many points of a curve, each the mean over equally many that follow each other."""
    size = -(-len(points) // most) or 1
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in blocks]


def _x_axis(plot: Plot, records: Sequence[Record]) -> Axis:
    values = [v for record in records if is_finite_number(v := at(record, plot.x.key))]
    is_same = plot.instead and values and max(values) <= _SAME * min(values)
    return plot.instead if plot.instead and is_same else plot.x


def _series(
    plot: Plot, x: Axis, record: Record, styles: Mapping[str, Style]
) -> dict[str, Any] | None:
    if plot.mark is Mark.STEPS:
        columns = _steps(plot, record)
    elif plot.mark is Mark.SPANS:
        columns = _spans(plot, record)
    else:
        columns = _points(plot, x, record)
    if not columns or not columns["y"]:
        return None
    rung = at(record, plot.rung)
    label = styles[rung].short if rung in styles else str(rung or "")
    if (smaller := record.get("smaller")) is not None:
        label = f"{styles[smaller].short if smaller in styles else smaller} → {label}"
    line = record.get("family_and_place"), record.get(_ALIKE.get(x.key, ""))
    width = width_label(record["num_latents"]) if "num_latents" in record else None
    like = next((name for name, style in styles.items() if style.colour_label == width), None)
    return {
        "rung": rung if rung in styles else None,
        "like": rung if rung in styles else like,
        "label": label,
        "hollow": plot.hollow is not None and record.get(plot.hollow[0]) == plot.hollow[1],
        "line": str(line) if plot.join else "",
        "first": at(record, plot.first) if plot.first else None,
        "columns": {key: [float(f"{v:.6g}") for v in own] for key, own in columns.items()},
    }


def _points(plot: Plot, x: Axis, record: Record) -> Columns:
    """Lists of numbers, of which those stay that are all finite; a lone number is a list of one."""
    y = plot.y
    wanted = {"y": (y.key, y.scale), "x2": (x.to, x.scale), "y2": (y.to, y.scale)}
    wanted |= {"x": (x.key, x.scale), "fitted": (plot.fitted, y.scale)}
    found = {name: _numbers(at(record, key), scale) for name, (key, scale) in wanted.items() if key}
    length = len(found["y"])
    if "x" not in found:
        found["x"] = list(range(length))
    if len(found["x"]) == length + 1:
        found["x"] = [(low + high) / 2 for low, high in pairwise(found["x"])]
    if any(len(own) != length for own in found.values()):
        return {}
    rows = [row for row in zip(*found.values(), strict=True) if all(map(is_finite_number, row))]
    if plot.mark is Mark.LINE and x.log:
        rows = [row for row in rows if row[list(found).index("x")] > 0]
    return {name: [row[i] for row in rows] for i, name in enumerate(found)}


def _steps(plot: Plot, record: Record) -> Columns:
    """Edges and shares of the bins in which there is something, with what is between them."""
    edges, counts = at(record, plot.x.key), at(record, plot.y.key)
    total = sum(counts or []) + (at(record, plot.rest) or 0 if plot.rest else 0)
    filled = [index for index, count in enumerate(counts or []) if count]
    if not filled:
        return {}
    bins = range(filled[0], filled[-1] + 1)
    shares = [100 * counts[i] / total for i in bins]
    return {"x": [edges[i] for i in bins], "x2": [edges[i + 1] for i in bins], "y": shares}


def _spans(plot: Plot, record: Record) -> Columns:
    summary = at(record, plot.y.key)
    if at(summary, "mean") is None:
        return {}
    quantiles = {name: [summary["quantiles"][q]] for name, q in _QUANTILES.items()}
    return {"y": [summary["mean"]], **quantiles}


def _numbers(found: Any, scale: float) -> list[Any]:
    values = found if isinstance(found, list) else [found]
    return [scale * v if is_finite_number(v) else None for v in values]


def _scale(axis: Axis, series: Sequence[dict[str, Any]], which: str) -> dict[str, Any]:
    """Limits that show all values with a small margin, and whether they are of a logarithm."""
    columns = [one["columns"].get(name, []) for one in series for name in _ON_AXIS[which]]
    values = [value for own in columns for value in own] + [0.0] * axis.zero
    low, high = min(values, default=0.0), max(values, default=1.0)
    is_log = low > 0 and (axis.log if axis.log is not None else high / low > _LOG_FROM)
    if is_log:
        margin = (high / low) ** 0.06 if high > low else 1.25
        return {"log": True, "domain": [low / margin, high * margin]}
    high = high or 1.0 if low == high else high  # nothing but zeros: from 0 to 1
    margin = max(0.06 * (high - low), 0.02 * max(abs(low), abs(high)))
    below = 0.0 if axis.zero and low == 0 else low - margin
    return {"log": False, "domain": [below, high + margin]}


def _note(plot: Plot, records: Sequence[Record], styles: Mapping[str, Style]) -> str:
    """The figure that is told below a panel, of each rung in it."""
    if not plot.note:
        return ""
    known = [r for r in records if at(r, plot.note) is not None and at(r, plot.rung) in styles]
    texts = written([at(record, plot.note) for record in known], plot.note_write)
    told = [f"{styles[at(r, plot.rung)].tag}: {t}" for r, t in zip(known, texts, strict=True)]
    more = ["…"] if len(told) > _MOST_NOTES else []
    return f"{plot.note_label}: {', '.join([*told[:_MOST_NOTES], *more])}" if told else ""
