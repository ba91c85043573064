"""A run's results as one page of HTML that needs nothing else."""

from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sae_dist.common.files import write_atomic
from sae_dist.report.facts import facts, headline
from sae_dist.report.pages import rung_pages, topics
from sae_dist.report.results import RunResults
from sae_dist.report.styles import assign_looks, grouped, palette


def write_report(results: RunResults, path: Path) -> Path:
    """Write the report to `path`, atomically, and return it: equal results give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(results).encode())
    return path


def render(results: RunResults) -> str:
    """The page as text."""
    looks = assign_looks(results)
    num_colours = len({look.colour for look in looks.values()})
    rungs = rung_pages(results, looks)
    environment = Environment(
        loader=PackageLoader("sae_dist.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        name=results.name,
        headline=headline(results),
        facts=facts(results),
        topics=topics(results, looks),
        rungs=rungs,
        ladder=grouped(rungs, lambda page: page.look.group),
        config=yaml.safe_dump(results.config, sort_keys=False) if results.config else "",
        light=palette(num_colours, dark=False),
        dark=palette(num_colours, dark=True),
    )
