"""What a ladder says as a whole: laws of its losses, and dead latents by width."""

from typing import Any

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import SCALING, Figure, Panel, drawn, mark
from sae_dist.report.numbers import number, percents
from sae_dist.report.results import RunResults, at
from sae_dist.report.styles import Style, family_label, grouped, place_label
from sae_dist.report.svg import QUIET, draw, scale, series_colour, width_axis
from sae_dist.report.table import Column, Table, plain_column, table

_LOSSES = {"fvu": "FVU (fraction of variance)", "delta_loss": "Δ loss (nats a token)"}
_NAMES = {"fvu": "FVU", "delta_loss": "Δ loss"}
_SYMBOLS = {
    "alpha": "α",
    "beta_k": "β_k",
    "beta_n": "β_n",
    "gamma": "γ",
    "zeta": "ζ",
    "eta": "η",
}
_LAW = "L(n, k) = exp(α + β_k ln k + β_n ln n + γ ln k ln n) + exp(ζ + η ln k)"
_SAME_L0 = 1.1  # L0s less than this factor apart say nothing about L0
Item = dict[str, Any]


def scaling_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """Each fitted law beside what was measured, and what it leaves over."""
    laws = [law for law in results.ladder.get("scaling_laws") or [] if law.get("coefficients")]
    return drawn(
        [
            Figure(
                "Fitted scaling laws",
                "Loss against L0 of each width, or against width where all L0 are alike: measured "
                "(filled) and as the law fitted to all of them says (open, joined).",
                [
                    Panel(_draw_law(f"law-{i}", law, looks), _title(law))
                    for i, law in enumerate(laws)
                ],
                f"{SCALING}, section 3.1.3",
            ),
            Figure(
                "What the laws leave over",
                "ln(measured) − ln(fitted): 0.01 is a loss 1 % above the law. A trend along the "
                "axis or from colour to colour says that the form does not hold here.",
                [
                    Panel(_draw_residuals(f"residuals-{i}", law, looks), _title(law))
                    for i, law in enumerate(laws)
                ],
            ),
            Figure(
                "Dead latents by width",
                "Share of latents that never fired on the held-out tokens; lines join coders of "
                "one kind.",
                _dead_panels(results, looks),
            ),
        ]
    )


def law_table(results: RunResults) -> list[Table]:
    """The laws' coefficients, or why there are none."""
    laws = list(results.ladder.get("scaling_laws") or [])
    names = list(dict.fromkeys(name for law in laws for name in law.get("coefficients") or {}))
    columns = [
        Column[Item]("kind", "", lambda law: family_label(law["kind"], law["form"])),
        Column[Item]("site", "", lambda law: place_label(law["site"], law["target"])),
        Column[Item]("loss", "", _name),
        Column[Item](
            "rungs", "that the law was fitted to", lambda law: len(law.get("points") or [])
        ),
        plain_column("R²", "share of the variance of the log loss that the law explains", "r2"),
        Column("law", "which of the forms these rungs can tell apart", _words),
        *map(_coefficient, names),
        Column[Item]("left out", "why there is no law", lambda law: law.get("left_out")),
    ]
    caption = (
        f"{_LAW} for n latents and an L0 of k, or as much of it as these rungs can tell apart, "
        "fitted to the logarithm of the loss."
    )
    return table("Coefficients", caption, columns, laws, f"{SCALING}, section 3.1.3")


def _coefficient(name: str) -> Column[Item]:
    def text(law: Item) -> str | None:
        value, error = (at(law, key, name) for key in ("coefficients", "standard_errors"))
        return None if value is None else f"{number(value)} ± {number(error)}"

    return Column(_SYMBOLS.get(name, name), "with its standard error", text)


def _words(law: Item) -> str | None:
    return str(law["law"]).replace("_", " ") if law.get("law") else None


def _name(law: Item) -> str:
    return _NAMES.get(law["loss"], str(law["loss"]))


def _title(law: Item) -> str:
    place = place_label(law["site"], law["target"])
    return f"{family_label(law['kind'], law['form'])} · {place} · {_name(law)}"


def _draw_law(key: str, law: Item, looks: dict[str, Style]) -> str:
    which = _varied(law)
    points = sorted(law["points"], key=lambda point: point[which])
    lines = [points] if which == "num_latents" else grouped(points, _width).values()

    def paint(ax: Axes) -> None:
        for line in lines:
            xy = [point[which] for point in line], [point["fitted"] for point in line]
            is_of_one_width = len(set(map(_width, line))) == 1
            colour = series_colour(looks[line[0]["rung"]].colour) if is_of_one_width else QUIET
            ax.plot(*xy, "o-", color=colour, fillstyle="none", markersize=8, linewidth=1)
        for point in points:
            mark(ax, looks[point["rung"]], point[which], point["loss"])
        scale(ax, "y", [point[key] for point in points for key in ("loss", "fitted")])
        ax.set(ylabel=_LOSSES.get(law["loss"], law["loss"]))
        _axis_below(ax, which, points)

    return draw(key, paint, _tooltips(points, looks))


def _draw_residuals(key: str, law: Item, looks: dict[str, Style]) -> str:
    which, points = _varied(law), law["points"]

    def paint(ax: Axes) -> None:
        ax.axhline(0, color=QUIET, linewidth=1)
        for point in points:
            mark(ax, looks[point["rung"]], point[which], point["residual"])
        scale(ax, "y", [0.0, *(point["residual"] for point in points)], log=False)
        ax.set(ylabel="ln(measured / fitted)")
        _axis_below(ax, which, points)

    return draw(key, paint, _tooltips(points, looks))


def _varied(law: Item) -> str:
    """What the axis below shows: L0, or the width where all L0 are alike."""
    l0s = [point["l0"] for point in law["points"]]
    return "l0" if max(l0s) > _SAME_L0 * min(l0s) else "num_latents"


def _width(point: Item) -> str:
    return str(point["num_latents"])


def _axis_below(ax: Axes, which: str, points: list[Item]) -> None:
    values = [point[which] for point in points]
    if which == "num_latents":
        width_axis(ax, values)
        ax.set(xlabel="width (latents)")
    else:
        scale(ax, "x", values)
        ax.set(xlabel="L0 (active latents a token)")


def _tooltips(points: list[Item], looks: dict[str, Style]) -> dict[str, str]:
    return {
        looks[point["rung"]].gid: f"{point['rung']}: measured {number(point['loss'])}, "
        f"fitted {number(point['fitted'])}"
        for point in points
    }


def _dead_panels(results: RunResults, looks: dict[str, Style]) -> list[Panel]:
    groups = [group for group in results.ladder.get("dead_by_width") or [] if group.get("points")]
    places = grouped(groups, lambda group: place_label(group["site"], group["target"]))
    return [
        Panel(_draw_dead(f"dead-{i}", own, looks), place if len(places) > 1 else "")
        for i, (place, own) in enumerate(places.items())
    ]


def _draw_dead(key: str, groups: list[Item], looks: dict[str, Style]) -> str:
    points = [point for group in groups for point in group["points"]]

    def paint(ax: Axes) -> None:
        for group in groups:
            line = sorted((p["num_latents"], 100 * p["dead_share"]) for p in group["points"])
            if len({width for width, _ in line}) == len(line):
                ax.plot(*zip(*line, strict=True), color=QUIET)
        for point in points:
            mark(ax, looks[point["rung"]], point["num_latents"], 100 * point["dead_share"])
        scale(ax, "y", [0.0, *(100 * point["dead_share"] for point in points)], log=False)
        width_axis(ax, [point["num_latents"] for point in points])
        ax.set(xlabel="width (latents)", ylabel="dead latents (%)", ylim=(0, ax.get_ylim()[1]))

    tooltips = {
        looks[point["rung"]].gid: f"{point['rung']}: {percents([at(point, 'dead_share')])[0]} dead"
        for point in points
    }
    return draw(key, paint, tooltips)
