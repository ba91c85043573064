import os
import shutil
from pathlib import Path

import pytest

from sae_dist.latents import Latents
from tests.explain.made_up import write_run


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Latents:
    """Latents that nobody writes to."""
    return write_run(tmp_path_factory.mktemp("watched") / "runs" / "r")


@pytest.fixture
def latents(watched: Latents, tmp_path: Path) -> Latents:
    """The same in a run of one's own."""
    run = tmp_path / "runs" / "r"
    shutil.copytree(watched.run, run, copy_function=os.link)
    return Latents(run, watched.rung.rung)
