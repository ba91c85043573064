"""What a run's folder says after the command was started again with other settings."""

from pathlib import Path

import pytest
import yaml

from sae_dist.apps import train
from tests.train.ladders import make_store

GIVEN = (
    *("store=store", "run=r", "site=in", "coder=topk", "coder.num_latents=32", "coder.k=4"),
    *("batch_tokens=256", "log.wandb=disabled"),
)


def test_config_yaml_says_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(Path("store"), num_tokens=2048)
    path = Path("runs/r/config.yaml")

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["train", *GIVEN, *arguments])
        train.main()

    run("tokens=1280")
    assert "warning: optim.warmup_steps=1000 of a run of 5 steps" in capsys.readouterr().err
    first = path.read_bytes()
    with pytest.raises(SystemExit, match="2"):  # fewer than were done
        run("tokens=512")
    assert "expected at least tokens=1280" in capsys.readouterr().err
    run("tokens=1280", "log.every_steps=1")  # as many: nothing was logged so
    assert path.read_bytes() == first
    run()  # all there are, once
    tokens = yaml.safe_load(path.read_text())["tokens"]
    said = capsys.readouterr().err
    assert 1280 < tokens < 2048 and f"tokens={tokens}: all that store has for training" in said
