"""Draw a run's report: one page that needs nothing else, `runs/NAME/report/index.html`.

    sae-dist report run=NAME

It draws what is there: without an evaluation, the training curves alone. The report and the pages
of latents, where there are some, link to each other.
"""

from pathlib import Path

from sae_dist.apps.command import command, entry
from sae_dist.apps.runs import finished_run
from sae_dist.common.log import log_info
from sae_dist.config import ReportConfig
from sae_dist.pages import write_index
from sae_dist.report import load, write_report


@command
def report(config: ReportConfig) -> Path:
    """Read a run's files and write its page, whose path is returned."""
    folder, _ = finished_run(config.runs, config.run)
    results = load(folder)
    page = write_report(results, folder / "report" / "index.html")
    if results.has_latents:
        write_index(folder)
    log_info(f"report in {page}")
    return page


main = entry("report")
