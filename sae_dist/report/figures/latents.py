"""What single latents do: how often they fire, above what, and how much they matter."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import (
    GEMMA_SCOPE,
    TRANSCODERS,
    Figure,
    Panel,
    drawn,
    rows_panel,
    stairs_panel,
)
from sae_dist.report.figures.scatter import L0_AXIS, Axis, scatter_by_place
from sae_dist.report.measures import R_L0
from sae_dist.report.numbers import number
from sae_dist.report.results import RungResult, RunResults, at
from sae_dist.report.styles import Style, grouped, told_apart
from sae_dist.report.svg import INK, series_colour

Histogram = tuple[Sequence[float], list[float]]
_QUANTILES = ("0.1", "0.25", "0.5", "0.75", "0.9")


def latent_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """Of all rungs."""
    return drawn(
        [
            _frequencies(results.rungs, looks, ""),
            _thresholds(results.rungs, looks, ""),
            Figure(
                "Consistent activation",
                "Over the latents of each coder: their median (dot), mean (diamond), middle half "
                "(thick) and middle four fifths (thin line). The paper’s caption and its code "
                "define two different figures; both are shown. Sequences are those in which the "
                "latent fires.",
                [
                    *_consistency(results.rungs, looks, "caption", "Σ activation / tokens"),
                    *_consistency(results.rungs, looks, "code", "active tokens / sequence"),
                ],
                f"{TRANSCODERS}, fig. 3",
            ),
            Figure(
                "Uniformity of active latent importance",
                "r_L0 = exp(S(p)) / ‖y‖₀ with y = f ⊙ (W_dec ∇ₓL), L the mean-centred logit of the "
                "next token: 1 where all active latents matter alike, 1 / L0 where one alone does.",
                scatter_by_place(results, looks, "uniformity", L0_AXIS, Axis("r_L0", R_L0)),
                f"{GEMMA_SCOPE}, fig. 16 and eqs. 12–14",
            ),
        ]
    )


def latent_figures_of(rung: RungResult, looks: dict[str, Style]) -> list[Figure]:
    """Of one rung alone."""
    prefix = f"{looks[rung.name].anchor}-"
    return drawn([_frequencies([rung], looks, prefix), _thresholds([rung], looks, prefix)])


def _frequencies(rungs: list[RungResult], looks: dict[str, Style], prefix: str) -> Figure:
    found = {
        r.name: r.figures["firing_frequency"] for r in rungs if at(r.figures, "firing_frequency")
    }
    histograms = {
        name: (f["edges_log10"], _percents(f["counts"], sum(f["counts"]) + f["never"]))
        for name, f in found.items()
    }

    def note(names: list[str]) -> str:
        called = zip(names, told_apart([looks[name] for name in names]), strict=True)
        shown = (f"{found[name]['never']:,} of {label}" for name, label in called)
        return f"Never fired: {', '.join(shown)}"

    panels = _histogram_panels(
        f"{prefix}frequency",
        histograms,
        looks,
        "log₁₀ firing frequency",
    )
    return Figure(
        "Firing frequency",
        "On which share of non-special tokens a latent is active (log₁₀), as per cent of the "
        "coder’s latents in each bin; those that never fired are counted below the panel.",
        [Panel(svg, group, note(names)) for (group, names), svg in panels],
        f"{GEMMA_SCOPE}, fig. 5",
    )


def _thresholds(rungs: list[RungResult], looks: dict[str, Style], prefix: str) -> Figure:
    found = {r.name: r.figures["thresholds"] for r in rungs if at(r.figures, "thresholds")}
    histograms = {
        name: (t["edges"], _percents(t["counts"], sum(t["counts"]))) for name, t in found.items()
    }
    panels = _histogram_panels(
        f"{prefix}thresholds", histograms, looks, "threshold (units of the activations)"
    )
    return Figure(
        "Thresholds",
        "Above which activation each latent of a JumpReLU counts as active, as per cent of its "
        "latents in each bin.",
        [Panel(svg, group) for (group, _), svg in panels],
    )


def _histogram_panels(
    key: str, histograms: dict[str, Histogram], looks: dict[str, Style], label: str
) -> list[tuple[tuple[str, list[str]], str]]:
    """A panel a kind and site, a curve a rung, all on the same axes: they can be compared."""
    groups = grouped(histograms, lambda name: looks[name].group)
    edges = [edge for histogram in histograms.values() for edge in _filled_edges(*histogram)]
    heights = [height for _, heights in histograms.values() for height in heights]
    return [
        (
            (group, names),
            stairs_panel(
                f"{key}-{index}",
                {name: histograms[name] for name in names},
                looks,
                (edges, heights),
                (label, "share of latents (%)"),
            ),
        )
        for index, (group, names) in enumerate(groups.items())
    ]


def _consistency(
    rungs: list[RungResult], looks: dict[str, Style], which: str, label: str
) -> list[Panel]:
    key = f"consistent_activation_{which}"
    found = {r.name: s for r in rungs if _is_whole(s := at(r.figures, key))}
    if not found:
        return []
    spans = {name: [s["quantiles"][q] for q in _QUANTILES] for name, s in found.items()}

    def paint(ax: Axes) -> None:
        for row, (name, (low, below, middle, above, high)) in enumerate(spans.items()):
            look = looks[name]
            colour = series_colour(look.colour)
            ax.plot([low, high], [row, row], color=colour, linewidth=1)
            ax.plot([below, above], [row, row], color=colour, linewidth=4, gid=look.gid)
            ax.plot(middle, row, "o", color=colour, markersize=7)
            ax.plot(found[name]["mean"], row, "D", color=INK, markersize=4.5, fillstyle="none")

    tooltips = {
        looks[name].gid: f"{name}: median {number(span[2])}, mean {number(found[name]['mean'])}"
        for name, span in spans.items()
    }
    values = [v for n, span in spans.items() for v in (*span, found[n]["mean"])]
    shorts = [looks[name].short for name in found]
    svg = rows_panel(f"consistency-{which}", shorts, paint, values, label, tooltips)
    return [Panel(svg, f"as in its {which}")]


def _is_whole(summary: dict[str, Any] | None) -> bool:
    return at(summary, "mean") is not None


def _percents(counts: Sequence[int], total: int) -> list[float]:
    return [100 * count / max(total, 1) for count in counts]


def _filled_edges(edges: Sequence[float], heights: Sequence[float]) -> Sequence[float]:
    """The edges of the bins in which there is a latent; all edges where there is none."""
    bins = [index for index, height in enumerate(heights) if height]
    return edges[bins[0] : bins[-1] + 2] if bins else edges
