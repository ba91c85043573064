"""A checkout's files for launchers, written where there is no checkout."""

from pathlib import Path

import pytest

from sae_dist.apps.files import files
from sae_dist.common.errors import UserError
from sae_dist.config import FilesConfig
from tests.apps.commands import ROOT


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    config = FilesConfig(to=str(tmp_path))
    files(config)
    (tmp_path / "launch" / "slurm" / "common.sh").unlink()
    files(config)
    for folder in ("accelerate", "slurm"):
        for path in (ROOT / "launch" / folder).iterdir():
            written = tmp_path / "launch" / folder / path.name
            assert written.read_bytes() == path.read_bytes()
            assert written.stat().st_mode == path.stat().st_mode


def test_nothing_is_written_over_what_the_user_changed(tmp_path: Path) -> None:
    mine = tmp_path / "launch" / "slurm" / "train.sbatch"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="train.sbatch with other contents; .* to="):
        files(FilesConfig(to=str(tmp_path)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"
