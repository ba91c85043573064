"""A run's results as one page of HTML that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import vl_convert
import yaml
from markupsafe import Markup

from sae_dist.common.declare import Figure, Plot, Topic, Write
from sae_dist.common.files import write_atomic
from sae_dist.common.html import environment, inert_json, palette
from sae_dist.evaluate.registry import Declared, Needs, measures
from sae_dist.report.facts import facts, headline, leaves
from sae_dist.report.plots import plot_data
from sae_dist.report.results import Record, RunResults, has
from sae_dist.report.styles import Style, assign_styles, grouped, legend
from sae_dist.report.table import Cell, Table, column, tables
from sae_dist.report.training import TRAINING, training_plots

_NAME = Figure("rung", "rung", "name of the coder’s folder", write=Write.RUNG)
_ABOUT = (
    _NAME,
    Figure("family", "kind", "how latents are selected", write=Write.TEXT),
    Figure("place", "site", "where in the language model", write=Write.TEXT),
    Figure("num_latents", "latents", "width of the coder", write=Write.COUNT),
    Figure("k", "k", "active latents asked for", write=Write.COUNT),
)


@dataclass(slots=True)
class Page:
    """A part of the report that is shown by itself, under `#key`.

    `lead` says in a sentence what it answers, `facts` what it was measured on where that differs,
    `missing` what was left out, and how to get it.
    """

    key: str
    title: str
    lead: str = ""
    missing: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    plots: list[tuple[Plot, dict[str, Any]]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RungPage:
    """All that is known of one coder: its figures by the title of their table, and the `partners`
    that it is compared with latent by latent.
    """

    style: Style
    described: str
    readings: dict[str, list[Cell]]
    plots: list[tuple[Plot, dict[str, Any]]]
    partners: list[Style]


def write_report(results: RunResults, path: Path) -> Path:
    """Write the report to `path`, atomically, and return it: equal results give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(results).encode())
    return path


def render(results: RunResults) -> str:
    """The page as text."""
    declared = list(measures().values())
    styles = assign_styles(results)
    pages = topics(results, declared, styles)
    rungs = [_rung_page(record, results, declared, pages, styles) for record in results.rungs]
    num_colours = 1 + max((style.colour for style in styles.values()), default=-1)
    drawn = {
        "plots": {data["key"]: data for page in pages for _, data in page.plots},
        "styles": {name: style.drawn for name, style in styles.items()},
    }
    return (
        environment("sae_dist.report")
        .get_template("page.html.jinja")
        .render(
            name=results.name,
            headline=headline(results),
            facts=facts(results),
            pages=pages,
            has_latents=results.has_latents,
            rungs=rungs,
            legend=legend(styles.values()),
            ladder=grouped(rungs, lambda page: page.style.group),
            config=yaml.safe_dump(results.config, sort_keys=False) if results.config else "",
            light=palette(num_colours, dark=False),
            dark=palette(num_colours, dark=True),
            data=inert_json(drawn),
            library=Markup(_library()) if drawn["plots"] else "",
        )
    )


def topics(
    results: RunResults, declared: Sequence[type[Declared]], styles: dict[str, Style]
) -> list[Page]:
    """The parts that compare coders, without those in which there is nothing."""
    overview = Page("overview", "Rungs", missing=_missing(results))
    main = [
        figure
        for measure in declared
        if measure.needs.of_one
        for figure in measure.figures
        if figure.is_main
    ]
    caption = "A rung is one coder of the ladder; its name leads to a page of its own."
    overview.tables = tables("All rungs", [*_ABOUT, *main], results.rungs, styles, caption=caption)
    pages = {"overview": overview}

    def page(topic: Topic) -> Page:
        return pages.setdefault(topic.key, Page(topic.key, topic.title, topic.lead))

    def draw(plots: Sequence[Plot], topic: Topic, records: Sequence[Record]) -> None:
        for plot in plots:
            if data := plot_data(plot, records, styles):
                page(plot.topic or topic).plots.append((plot, data))

    for measure in declared:
        own = page(measure.topic)
        own.facts += leaves({**results.of_run.get(measure.name, {}), "rows": None})
        draw(measure.plots, measure.topic, _records(results, measure))
    for (key, title), columns in _by_table(declared).items():
        first = columns[0][0]
        is_own = title == first.group
        pages[key].tables += tables(
            title,
            [*([_NAME] if first.needs.of_one else []), *(figure for _, figure in columns)],
            _records(results, first),
            styles,
            caption=first.caption if is_own else "",
            source=first.source if is_own else columns[-1][1].source,
            table_by=first.table_by,
        )
    plots, records = training_plots(results, styles)
    draw(plots, TRAINING, records)
    if not results.metrics:
        page(TRAINING).missing = "The run has no metrics.jsonl: its training is not shown."
    return [p for p in pages.values() if p is overview or p.plots or p.tables or p.missing]


def _by_table(
    declared: Sequence[type[Declared]],
) -> dict[tuple[str, str], list[tuple[type[Declared], Figure]]]:
    """The figures that have a column, with their measures, by topic and title of their table."""
    figures = [(m, f) for m in declared for f in m.figures if f.heading and (f.group or m.group)]
    return grouped(figures, lambda own: (own[0].topic.key, own[1].group or own[0].group))


def _records(results: RunResults, measure: type[Declared]) -> list[Record]:
    if measure.needs.of_one:
        return results.rungs
    if measure.needs is Needs.PAIR:
        return results.pairs
    return list(results.of_run.get(measure.name, {}).get("rows", []))


def _rung_page(
    record: Record,
    results: RunResults,
    declared: Sequence[type[Declared]],
    pages: Sequence[Page],
    styles: dict[str, Style],
) -> RungPage:
    name = record["rung"]
    readings = {
        title: [
            cell
            for measure, figure in own
            if measure.needs.of_one and has(record, figure.key)
            for cell in column(figure, [record], styles)
        ]
        for (_, title), own in _by_table(declared).items()
    }
    plots = [
        (plot, data)
        for page in pages
        for plot, data in page.plots
        if plot.by_rung and any(s["rung"] == name for p in data["panels"] for s in p["series"])
    ]
    pairs = ((pair["smaller"], pair["larger"]) for pair in results.pairs)
    return RungPage(
        style=styles[name],
        described=_described(record),
        readings={group: cells for group, cells in readings.items() if cells},
        plots=plots,
        partners=[
            styles[other]
            for pair in pairs
            for own, other in permutations(pair)
            if own == name and other in styles
        ],
    )


def _described(record: Record) -> str:
    parts = [f"{record['family']} at {record['place']}", f"{record['num_latents']:,} latents"]
    parts += [f"k = {record['k']:,}"] if record.get("k") is not None else []
    if (d_in := record.get("d_in")) is not None:
        same = d_in == record["d_out"]
        parts.append(f"of width {d_in:,}" if same else f"{d_in:,} → {record['d_out']:,} wide")
    return ", ".join(parts)


def _missing(results: RunResults) -> str:
    if not results.rungs:
        return "The coders have not been evaluated: run the evaluation, then the report again."
    if not any(has(record, "delta_loss") for record in results.rungs):
        return (
            "The evaluation ran without the language model: delta loss, CE increase and loss "
            "recovered are left out."
        )
    return ""


@cache
def _library() -> str:
    """Vega, Vega-Lite and their embedding as one script."""
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]
