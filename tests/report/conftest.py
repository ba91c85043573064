"""One made-up run and its page for all tests that only look at them."""

from pathlib import Path

import pytest

from sae_dist.report import load, write_report
from tests.report.made_up import made_up_rungs, write_run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything in it, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "a_run"
    write_run(folder, made_up_rungs(), steps=60, beside=True)
    write_report(load(folder), folder / "report" / "index.html")
    return folder
