"""The report of a run: `load` its plain results, `write_report` them as one self-contained page."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.report.page import write_report as write_report
    from sae_dist.report.results import RunResults as RunResults
    from sae_dist.report.results import load as load

lazily(__name__)
