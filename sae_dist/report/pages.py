"""The parts of the report: one a topic, one a coder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sae_dist.report.figures.comparison import comparison_figures, comparison_tables
from sae_dist.report.figures.fidelity import fidelity_figures
from sae_dist.report.figures.figure import Figure
from sae_dist.report.figures.ladder import law_table, scaling_figures
from sae_dist.report.figures.latents import latent_figures, latent_figures_of
from sae_dist.report.figures.pairs import pair_figures, pair_tables
from sae_dist.report.figures.position import position_figures
from sae_dist.report.figures.training import (
    throughput_figures,
    training_figures,
    training_figures_of,
)
from sae_dist.report.figures.transfer import (
    LEGEND,
    transfer_facts,
    transfer_figures,
    transfer_table,
)
from sae_dist.report.measures import (
    DELTA_LOSS,
    GROUPS,
    HEADLINE,
    IN_THE_LM,
    LATENTS,
    RECONSTRUCTION,
)
from sae_dist.report.results import RungResult, RunResults
from sae_dist.report.styles import (
    LegendEntry,
    Style,
    legend_of_colours,
    legend_of_dashes,
    legend_of_markers,
    place_of,
)
from sae_dist.report.table import Cell, Table, rung_table


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the report that is shown by itself, under `#key`.

    `lead` says in a sentence what it answers, `about` what it was measured on where that differs,
    `missing` what was left out, and how to get it.
    """

    key: str
    title: str
    lead: str = ""
    about: str = ""
    missing: str = ""
    legend: list[LegendEntry] = field(default_factory=list)
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.missing)


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of one coder, and what it means."""

    heading: str
    explained: str
    cell: Cell


@dataclass(frozen=True, slots=True)
class RungPage:
    """All that is known of one coder."""

    name: str
    look: Style
    described: str
    readings: dict[str, list[Reading]]
    figures: list[Figure]
    pairs: list[Style]


def topics(results: RunResults, looks: dict[str, Style]) -> list[Page]:
    """The parts that compare coders, without those in which there is nothing."""
    made = [_overview(results, looks), *_measured(results, looks), *_trained(results, looks)]
    return [page for page in made if not page.is_empty]


def rung_pages(results: RunResults, looks: dict[str, Style]) -> list[RungPage]:
    """One of each coder that was evaluated."""
    return [
        RungPage(
            name=rung.name,
            look=looks[rung.name],
            described=_described(rung, looks[rung.name]),
            readings={title: list(_readings(rung, title)) for title in GROUPS},
            figures=[
                *position_figures(results, looks, rung),
                *latent_figures_of(rung, looks),
                *training_figures_of(rung.name, results, looks),
            ],
            pairs=_partners(rung, results, looks),
        )
        for rung in results.rungs
    ]


def _overview(results: RunResults, looks: dict[str, Style]) -> Page:
    rungs = results.rungs
    caption = "A rung is one coder of the ladder; its name leads to a page of its own."
    return Page(
        "overview",
        "Rungs",
        missing=_without_lm(results),
        tables=rung_table("All rungs", caption, HEADLINE, rungs, looks, with_kind=True),
    )


def _measured(results: RunResults, looks: dict[str, Style]) -> Iterator[Page]:
    rungs = results.rungs
    evaluated = [looks[rung.name] for rung in rungs]
    colours, markers = legend_of_colours(evaluated), legend_of_markers(evaluated)
    lines = colours + legend_of_dashes(evaluated)
    yield Page(
        "fidelity",
        "Fidelity and sparsity",
        "How much of the activations the coders keep, and what the language model loses by them, "
        "for how many active latents.",
        legend=colours + markers,
        figures=fidelity_figures(results, looks),
        tables=[
            *rung_table("Reconstruction", "", RECONSTRUCTION, rungs, looks),
            *rung_table("In the language model", "", IN_THE_LM, rungs, looks),
        ],
    )
    yield Page(
        "position",
        "By position",
        "Whether the first tokens of a sequence are reconstructed as well as later ones.",
        legend=lines,
        figures=position_figures(results, looks),
    )
    yield Page(
        "latents",
        "Latents",
        "How often single latents fire, above what, and how evenly they matter.",
        legend=lines + markers,
        figures=latent_figures(results, looks),
        tables=rung_table("Latents", "", LATENTS, rungs, looks),
    )
    yield Page(
        "scaling",
        "Scaling",
        "How the loss and the share of dead latents go with width and sparsity.",
        legend=colours + markers,
        figures=scaling_figures(results, looks),
        tables=law_table(results),
    )
    yield Page(
        "comparison",
        "Forms compared",
        "Autoencoder, transcoder and skip transcoder of one MLP, equally wide and sparse.",
        legend=colours,
        figures=comparison_figures(results, looks),
        tables=comparison_tables(results, looks),
    )
    yield Page(
        "pairs",
        "Between coders",
        "What a wider coder knows that a narrower one of its kind does not.",
        legend=lines,
        figures=pair_figures(results, looks),
        tables=pair_tables(results, looks),
    )
    yield Page(
        "transfer",
        "Transfer to a finetune",
        "How coders of the base model fare on its finetune, beside the finetune’s own.",
        transfer_facts(results),
        legend=colours + LEGEND,
        figures=transfer_figures(results, looks),
        tables=transfer_table(results, looks),
    )


def _trained(results: RunResults, looks: dict[str, Style]) -> list[Page]:
    return [
        Page(
            "training",
            "Training",
            "What was logged on the way. Each point is a mean over neighbouring steps where there "
            "are many."
            if results.metrics
            else "",
            missing=""
            if results.metrics
            else "The run has no metrics.jsonl: its training is not shown.",
            legend=[*legend_of_colours(looks.values()), *legend_of_dashes(looks.values())]
            if results.metrics
            else [],
            figures=training_figures(results, looks),
        ),
        Page(
            "throughput",
            "Throughput",
            "How fast the whole ladder was trained.",
            figures=throughput_figures(results),
        ),
    ]


def _without_lm(results: RunResults) -> str:
    if not results.rungs:
        return "The coders have not been evaluated: run the evaluation, then the report again."
    if not any(DELTA_LOSS.is_taken(rung) for rung in results.rungs):
        return (
            "The evaluation ran without the language model: delta loss, CE increase and loss "
            "recovered are left out."
        )
    return ""


def _described(rung: RungResult, look: Style) -> str:
    parts = [f"{look.family} at {place_of(rung)}", f"{rung.num_latents:,} latents"]
    parts += [f"k = {rung.k:,}"] if rung.k is not None else []
    if rung.d_in is not None:
        same = rung.d_in == rung.d_out
        parts.append(f"of width {rung.d_in:,}" if same else f"{rung.d_in:,} → {rung.d_out:,} wide")
    return ", ".join(parts)


def _readings(rung: RungResult, group: str) -> Iterator[Reading]:
    for measure in GROUPS[group]:
        if measure.is_taken(rung):
            value = measure.of(rung)
            cell = Cell(value, measure.write([value])[0], "/".join(measure.keys))
            yield Reading(measure.heading, measure.explained, cell)


def _partners(rung: RungResult, results: RunResults, looks: dict[str, Style]) -> list[Style]:
    names = [
        other
        for pair in results.pairs
        for own, other in ((pair["smaller"], pair["larger"]), (pair["larger"], pair["smaller"]))
        if own == rung.name
    ]
    return [looks[name] for name in names]
