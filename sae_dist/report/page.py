"""A run's results as one page of HTML that needs nothing else."""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from sae_dist.common.files import write_atomic
from sae_dist.report.curves import throughput_figures, training_figures
from sae_dist.report.figures import Figure, fidelity_figures, frequency_figures
from sae_dist.report.looks import (
    LegendEntry,
    Look,
    assign_looks,
    legend_of_colours,
    legend_of_markers,
    palette,
)
from sae_dist.report.results import RunResults
from sae_dist.report.table import cells, facts, filled_columns, headline


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. `missing` says in a sentence what was left out, and how to get it."""

    key: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    legend: list[LegendEntry] = field(default_factory=list)
    missing: str = ""


def write_report(results: RunResults, path: Path) -> Path:
    """Write the report to `path`, atomically, and return it: equal results give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(results).encode())
    return path


def render(results: RunResults) -> str:
    """The page as text."""
    looks = assign_looks(results)
    num_colours = len({look.colour for look in looks.values()})
    columns = filled_columns(results.rungs)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("sae_dist.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        name=results.name,
        headline=headline(results),
        facts=facts(results),
        columns=columns,
        rows=[cells(rung, columns) for rung in results.rungs],
        without_lm=_without_lm(results),
        sections=_sections(results, looks),
        config=yaml.safe_dump(results.config, sort_keys=False) if results.config else "",
        light=palette(num_colours, dark=False),
        dark=palette(num_colours, dark=True),
    )


def _sections(results: RunResults, looks: dict[str, Look]) -> list[Section]:
    colours, markers = legend_of_colours(looks), legend_of_markers(looks)
    not_trained = (
        "" if results.metrics else "The run has no metrics.jsonl: its training is not shown."
    )
    return [
        Section(
            "fidelity", "Fidelity and sparsity", fidelity_figures(results, looks), colours + markers
        ),
        Section("latents", "Latents", frequency_figures(results, looks), colours),
        Section("training", "Training", training_figures(results, looks), colours, not_trained),
        Section("throughput", "Throughput", throughput_figures(results)),
    ]


def _without_lm(results: RunResults) -> str:
    if not results.rungs:
        return "The coders have not been evaluated: run the evaluation, then the report again."
    if all(rung.delta_loss is None for rung in results.rungs):
        return (
            "The evaluation ran without the language model: delta loss, CE increase and loss "
            "recovered are left out."
        )
    return ""
