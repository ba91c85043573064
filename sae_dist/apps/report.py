"""Draw a run's report: one page that needs nothing else, `runs/NAME/report/index.html`.

    python launch/report.py run=NAME

It draws what is there: without an evaluation, the training curves alone.
"""

from sae_dist.apps import command
from sae_dist.apps.runs import finished_run
from sae_dist.common.log import log_info
from sae_dist.config import ReportConfig
from sae_dist.report import load, write_report


def main() -> None:
    """The command."""
    command.run("report")


def report_command(config: ReportConfig) -> None:
    """Read a run's files and write its page."""
    folder, _ = finished_run(config.runs, config.run)
    log_info(f"report in {write_report(load(folder), folder / 'report' / 'index.html')}")
