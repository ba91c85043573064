"""The public CI's files, read: nothing of them has run where they were written."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apps.commands import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MOST_MINUTES = 30


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(path.read_text())["jobs"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_jobs_end_in_time_and_use_pinned_actions(path: Path) -> None:
    for name, job in jobs(path).items():
        assert 0 < job["timeout-minutes"] <= MOST_MINUTES, name
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]), step
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_the_same_targets_of_make_as_by_hand_on_every_python() -> None:
    found = jobs(ROOT / ".github/workflows/ci.yml")
    called = {
        target
        for job in found.values()
        for step in job["steps"]
        for target in re.findall(r"^make ([\w-]+)", step.get("run", ""))
    }
    assert called == {"lint", "test", "docs", "wheel", "image"} and called <= TARGETS
    assert found["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()
