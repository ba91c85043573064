"""Autoencoder, transcoder and skip transcoder of one MLP, at the same width and k."""

from typing import Any

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import TRANSCODERS, Figure, Panel, drawn, rows_panel
from sae_dist.report.numbers import number, percents
from sae_dist.report.results import RunResults, is_finite_number
from sae_dist.report.styles import Style, family_label, place_label, width_label
from sae_dist.report.svg import page_url, series_colour
from sae_dist.report.table import Column, Table, linked_column, plain_column, table

Row = dict[str, Any]


def comparison_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """CE increase, a panel a group."""
    groups = [
        (_title(group), rows)
        for group in results.comparison
        if (rows := [r for r in group["rows"] if is_finite_number(r.get("ce_increase_percent"))])
    ]
    return drawn(
        [
            Figure(
                "CE increase by form",
                "100 · (CE(spliced) − CE(clean)) / CE(clean): how much worse the language model "
                "predicts when the coder stands in for the MLP’s output. Less is better.",
                [
                    Panel(_draw(f"ce-{i}", rows, looks), title)
                    for i, (title, rows) in enumerate(groups)
                ],
                f"{TRANSCODERS}, table 1",
            )
        ]
    )


def comparison_tables(results: RunResults, looks: dict[str, Style]) -> list[Table]:
    """A table a group."""
    columns = [
        linked_column("rung", "", "rung", looks),
        Column[Row]("form", "", _form),
        Column[Row]("site", "", lambda row: place_label(row["site"], row.get("target"))),
        plain_column("L0", "mean number of active latents a token", "l0"),
        plain_column("FVU", "fraction of variance unexplained", "fvu"),
        plain_column("Δ loss", "CE(spliced) − CE(clean), nats a token", "delta_loss"),
        plain_column("CE increase (%)", "100 · Δ loss / CE(clean)", "ce_increase_percent"),
        plain_column(
            "loss recovered",
            "(CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))",
            "loss_recovered",
        ),
        plain_column("dead", "share of latents that never fired", "dead_share", write=percents),
    ]
    caption = "Coders of one MLP with as many latents and the same k (or L0 aimed at)."
    return [
        made
        for group in results.comparison
        for made in table(_title(group), caption, columns, group["rows"], f"{TRANSCODERS}, table 1")
    ]


def _title(group: Row) -> str:
    parts = [f"{width_label(group['num_latents'])} latents"]
    parts += [f"k = {group['k']}"] if group.get("k") is not None else []
    parts += [f"layer {group['layer']}"] if group.get("layer") is not None else []
    return ", ".join(parts)


def _form(row: Row) -> str:
    """Kind and form, an autoencoder's too."""
    family = family_label(row["kind"], row["form"])
    return f"{family} autoencoder" if row["form"] == "autoencoder" else family


def _draw(key: str, rows: list[Row], looks: dict[str, Style]) -> str:
    values = [row["ce_increase_percent"] for row in rows]

    def paint(ax: Axes) -> None:
        for place, (row, value) in enumerate(zip(rows, values, strict=True)):
            look = looks[row["rung"]]
            colour = series_colour(look.colour)
            ax.barh(
                place, value, height=0.55, color=colour, gid=look.gid, url=page_url(look.anchor)
            )

    tooltips = {
        looks[row["rung"]].gid: f"{row['rung']}: {number(value)} %"
        for row, value in zip(rows, values, strict=True)
    }
    labels = [_form(row) for row in rows]
    return rows_panel(key, labels, paint, [0.0, *values], "CE increase (%)", tooltips)
