"""A coder beside the next narrower one of its kind and site."""

from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import STITCHING, Curve, Figure, Panel, drawn, stairs_panel
from sae_dist.report.numbers import counts, number, plainly
from sae_dist.report.results import RunResults, at, is_finite_number
from sae_dist.report.styles import Style, grouped, told_apart
from sae_dist.report.svg import QUIET, draw, scale, series_colour
from sae_dist.report.table import Column, Table, linked_column, plain_column, table

Pair = dict[str, Any]


def pair_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """Of all pairs; colours are those of the larger coder."""
    stitched = [pair for pair in results.pairs if _is_stitched(pair)]
    return drawn(
        [
            Figure(
                "Maximal decoder cosine",
                "Of each latent of the larger coder the largest cosine of its decoder direction "
                "with one of the smaller coder: near 1 it has a counterpart there. Below each "
                "panel R² of that cosine with the correlation of the two latents’ activations.",
                _cosine_panels(results.pairs, looks),
                f"{STITCHING}, figs. 7 and 8 (R² 0.87 there)",
            ),
            Figure(
                "What inserting a latent changes",
                "The smaller coder’s mean squared error with one latent of the larger coder more, "
                "less its own: the mean over the latents at each maximal cosine that fire. Below 0 "
                "(novel) the smaller coder lacks them, above 0 (reconstruction) it has them.",
                _change_panels(results.pairs, looks),
                f"{STITCHING}, section 4",
            ),
            Figure(
                "The cosine as a sign of novelty",
                "Receiver operating characteristic: how well a low maximal cosine tells novel "
                "latents (inserting one alone into the smaller coder lowers its error) from "
                "reconstruction latents. The diagonal is guessing.",
                _roc_panels(results.pairs, looks),
                f"{STITCHING}, section 4",
            ),
            Figure(
                "Stitching",
                "From the smaller coder (open) to the larger one (filled): first latents without "
                "a counterpart come in, the least similar first (line); then groups of similar "
                "latents are swapped (dots).",
                [
                    Panel(_draw_stitching(f"stitching-{i}", pair, looks), _name(pair, looks))
                    for i, pair in enumerate(stitched)
                ],
                f"{STITCHING}, section 4",
            ),
        ]
    )


def pair_tables(results: RunResults, looks: dict[str, Style]) -> list[Table]:
    """How many latents are novel, and what a novel latent is worth."""
    names = [
        linked_column("larger coder", "", "larger", looks),
        linked_column("smaller coder", "beside which it is put", "smaller", looks),
    ]
    return [
        *table(
            "Novel and reconstruction latents",
            "Of the larger coder’s latents.",
            [*names, *_count_columns()],
            results.pairs,
            f"{STITCHING}, section 4",
        ),
        *table(
            "Error where a novel latent is active",
            "Mean squared error of both coders on tokens on which a latent of the larger coder "
            "below τ is active, on which it is not, and on all: means over those latents.",
            [*names, *_error_columns()],
            [pair for pair in results.pairs if at(pair, "mse", "larger", "active") is not None],
            f"{STITCHING}, fig. 11",
        ),
    ]


def _count_columns() -> list[Column[Pair]]:
    counted = {
        "novel": ("novel", "inserting it alone lowers the smaller coder’s MSE"),
        "reconstruction": ("reconstruction", "inserting it alone does not"),
        "never_fired": ("never fired", "on these tokens: neither"),
        "below_tau": ("below τ", "maximal cosine below τ"),
        "novel_below_tau": ("novel below τ", "the cosine says so, and inserting them does"),
    }
    r_squared = "of decoder cosine and correlation of activations"
    return [
        *(
            plain_column(heading, explained, "latents", key, write=counts)
            for key, (heading, explained) in counted.items()
        ),
        plain_column(
            "τ",
            "from this cosine on two latents count as the same",
            "latents",
            "tau",
            write=plainly,
        ),
        plain_column("AUC", "area under the ROC: 1 tells all apart, 0.5 is guessing", "roc", "auc"),
        plain_column("R²", r_squared, "activation_similarity", "r_squared"),
    ]


def _error_columns() -> list[Column[Pair]]:
    tokens = {"inactive": "not active", "active": "active", "all": "all tokens"}
    return [
        plain_column("latents", "below τ, that fire", "mse", "latents", write=counts),
        *(
            plain_column(f"{coder}, {words}", "", "mse", coder, key)
            for key, words in tokens.items()
            for coder in ("larger", "smaller")
        ),
    ]


def _is_stitched(pair: Pair) -> bool:
    values = [*(at(pair, "stitching", "mse") or [None]), *(at(pair, "stitching", "l0") or [None])]
    return all(map(is_finite_number, values))


def _name(pair: Pair, looks: dict[str, Style]) -> str:
    return f"{looks[pair['smaller']].short} → {looks[pair['larger']].label}"


def _by_group(pairs: list[Pair], looks: dict[str, Style]) -> dict[str, list[Pair]]:
    return grouped(pairs, lambda pair: looks[pair["larger"]].group)


def _cosine_panels(pairs: list[Pair], looks: dict[str, Style]) -> list[Panel]:
    histograms: dict[str, Curve] = {
        pair["larger"]: (found["edges"], _percents(found["counts"]))
        for pair in pairs
        if (found := at(pair, "max_cosine"))
    }
    filled = [e for edges, p in histograms.values() for e, h in zip(edges, p, strict=False) if h]
    heights = [height for _, percents in histograms.values() for height in percents]
    panels = []
    for i, (group, own) in enumerate(_by_group(pairs, looks).items()):
        shown = {p["larger"]: histograms[p["larger"]] for p in own if p["larger"] in histograms}
        if shown:
            limits = ([min(filled), 1.0], heights)
            labels = ("maximal decoder cosine", "share of latents (%)")
            svg = stairs_panel(f"cosine-{i}", shown, looks, limits, labels)
            panels.append(Panel(svg, group, _similarity_note(own, looks)))
    return panels


def _change_panels(pairs: list[Pair], looks: dict[str, Style]) -> list[Panel]:
    pairs = [pair for pair in pairs if at(pair, "mse_change", "mean")]
    curves = {pair["larger"]: _change_curve(pair["mse_change"]) for pair in pairs}

    def svg(key: str, own: list[Pair]) -> str:
        def paint(ax: Axes) -> None:
            ax.axhline(0, color=QUIET, linewidth=1)
            for pair in own:
                look = looks[pair["larger"]]
                colour = series_colour(look.colour)
                ax.plot(
                    *curves[pair["larger"]],
                    gid=look.gid,
                    color=colour,
                    linestyle=look.line,
                    marker="o",
                    markersize=4,
                )
            shown = [curves[pair["larger"]] for pair in own]
            scale(ax, "x", [x for xs, _ in shown for x in xs], log=False)
            scale(ax, "y", [0.0, *(y for _, ys in shown for y in ys)], log=False)
            ax.set(xlabel="maximal decoder cosine", ylabel="ΔMSE (squared activations)")

        return draw(key, paint, {looks[p["larger"]].gid: _name(p, looks) for p in own})

    return [
        Panel(svg(f"change-{i}", own), group)
        for i, (group, own) in enumerate(_by_group(pairs, looks).items())
    ]


def _change_curve(change: dict[str, Any]) -> Curve:
    """At the middle of each bin in which a latent fires, the mean ΔMSE."""
    middles = [(low + high) / 2 for low, high in pairwise(change["edges"])]
    points = [(x, y) for x, y in zip(middles, change["mean"], strict=True) if y is not None]
    return [x for x, _ in points], [y for _, y in points]


def _note(pairs: list[Pair], looks: dict[str, Style], *keys: str) -> str:
    """The number at `keys` of each pair, under the name of its larger coder."""
    called = zip(pairs, told_apart([looks[pair["larger"]] for pair in pairs]), strict=True)
    found = [(label, at(pair, *keys)) for pair, label in called]
    return ", ".join(f"{label} {number(value)}" for label, value in found if value is not None)


def _similarity_note(pairs: list[Pair], looks: dict[str, Style]) -> str:
    found = _note(pairs, looks, "activation_similarity", "r_squared")
    above = at(pairs[0], "activation_similarity", "above_cosine")
    return f"R² over cosines above {above}: {found}" if found else ""


def _roc_panels(pairs: list[Pair], looks: dict[str, Style]) -> list[Panel]:
    pairs = [pair for pair in pairs if at(pair, "roc", "true_positive")]

    def svg(key: str, own: list[Pair]) -> str:
        def paint(ax: Axes) -> None:
            ax.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
            for pair in own:
                look, roc = looks[pair["larger"]], pair["roc"]
                curve = roc["false_positive"], roc["true_positive"]
                colour = series_colour(look.colour)
                ax.plot(*curve, color=colour, linestyle=look.line, gid=look.gid)
            for which in "xy":
                scale(ax, which, [0.0, 1.0], log=False)
            ax.set(
                xlabel="reconstruction latents taken (share)", ylabel="novel latents found (share)"
            )

        return draw(key, paint, {looks[p["larger"]].gid: _name(p, looks) for p in own})

    return [
        Panel(
            svg(f"roc-{i}", own),
            group,
            f"Area under it: {_note(own, looks, 'roc', 'auc')}",
        )
        for i, (group, own) in enumerate(_by_group(pairs, looks).items())
    ]


def _draw_stitching(key: str, pair: Pair, looks: dict[str, Style]) -> str:
    stitching, look = pair["stitching"], looks[pair["larger"]]
    l0, mse = stitching["l0"], stitching["mse"]
    turn = sum(step <= stitching["num_inserted"] for step in stitching["steps"])
    small = series_colour(looks[pair["smaller"]].colour)

    def paint(ax: Axes) -> None:
        colour = series_colour(look.colour)
        ax.plot(l0[:turn], mse[:turn], color=colour, gid=look.gid)
        ax.plot(l0[turn - 1 :], mse[turn - 1 :], ".", color=colour, markersize=3)
        ax.plot(l0[0], mse[0], "o", color=small, fillstyle="none", markersize=8)
        ax.plot(l0[-1], mse[-1], "o", color=colour, markersize=8)
        scale(ax, "x", l0, log=False)
        scale(ax, "y", mse, log=False)
        ax.set(xlabel="L0 (active latents a token)", ylabel="MSE (squared activations)")

    return draw(key, paint, {look.gid: _name(pair, looks)})


def _percents(values: list[int]) -> list[float]:
    return [100 * value / max(sum(values), 1) for value in values]
