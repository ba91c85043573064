"""One wheel and one environment for all tests of this folder."""

from pathlib import Path

import pytest

from tests.apps.commands import ROOT
from tests.install.environment import build_wheel, make_environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="it builds the wheel: pip install hatchling")
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "venv"
    make_environment(folder, wheel)
    return folder
