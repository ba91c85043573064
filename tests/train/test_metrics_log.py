import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from sae_dist.train.config import LogConfig, WandbMode
from sae_dist.train.metrics_log import MetricsLog
from sae_dist.train.wandb_tracker import WandbTracker, begun_as, wandb_id

KEY, TOKEN = "0123456789abcdef" * 2 + "01234567", "hf_canaryCanaryCanary"
RUNGS = {"narrow": {"coder": {"num_latents": 16}}, "wide": {"coder": {"num_latents": 32}}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def journal(folder: Path, step: int = 0, mode: WandbMode = WandbMode.disabled) -> MetricsLog:
    return MetricsLog(folder, "ladder", RUNGS, LogConfig(wandb=mode), step)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(opened: MetricsLog, *steps: int) -> None:
    """Three lines a step: one a rung, and one of the ladder."""
    histogram = {"edges_log10": [-2.0, -1.0, 0.0], "never": 3, "counts": [5, 8]}
    for step in steps:
        for rung in RUNGS:
            measures = {"loss": 1 / (step + 1), "firing_frequency": histogram}
            opened.write(step, step * 64, rung, measures)
        opened.write(step, step * 64, None, {"tokens_per_second": 9.0})
    opened.close()


def test_every_figure_is_a_line_of_json(tmp_path: Path) -> None:
    write(journal(tmp_path), 0, 1)
    found = lines(tmp_path)
    assert [(line["step"], line["rung"]) for line in found] == [
        (step, rung) for step in (0, 1) for rung in ("narrow", "wide", None)
    ]
    assert found[3]["loss"] == 0.5 and found[3]["tokens"] == 64
    assert found[2] == {"step": 0, "tokens": 0, "rung": None, "tokens_per_second": 9.0}


def test_going_on_cuts_off_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    write(journal(tmp_path), 0, 1, 2, 3)
    before = lines(tmp_path)
    journal(tmp_path, step=2).close()
    assert lines(tmp_path) == before[:6]
    write(journal(tmp_path, step=2), 2, 3)
    assert lines(tmp_path) == before


@pytest.mark.parametrize("torn", ['{"step": 1, "tok', '{"step": 1', "{", "\0\0\0"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    write(journal(tmp_path), 0)
    before = lines(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    write(journal(tmp_path, step=1), 1)
    assert lines(tmp_path)[:3] == before
    assert [line["step"] for line in lines(tmp_path)] == [0, 0, 0, 1, 1, 1]


def test_disabled_writes_nothing_but_the_figures(tmp_path: Path) -> None:
    write(journal(tmp_path), 0)
    assert [path.name for path in tmp_path.rglob("*")] == ["metrics.jsonl"]


@pytest.mark.parametrize("mode", [WandbMode.offline, WandbMode.auto])
def test_offline_gives_one_run_a_rung_without_weights_or_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: WandbMode
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # what `auto` follows
    coders = tmp_path / "coders" / "narrow"
    coders.mkdir(parents=True)
    (coders / "coder.safetensors").write_bytes(b"canary of weights")
    opened = journal(tmp_path, mode=mode)
    (tracker,) = opened._trackers
    assert isinstance(tracker, WandbTracker)
    runs = tracker._runs
    assert {name: (run.name, run.group, run.project) for name, run in runs.items()} == {
        name: (name, "ladder", "sae_dist") for name in RUNGS
    }
    ids = {wandb_id("ladder", rung, begun_as(tmp_path)) for rung in ("narrow", "wide")}
    assert {run.id for run in runs.values()} == ids
    assert {run.config["coder"]["num_latents"] for run in runs.values()} == {16, 32}
    opened.write(0, 64, "narrow", {"loss": 1.0})
    opened.write(0, 64, None, {"tokens_per_second": 9.0})
    opened.close(tmp_path / "coders")
    logs = list(tmp_path.rglob("*.wandb"))
    for _ in range(600):  # wandb's own process may still be writing
        if all(b"tokens_per_second" in log.read_bytes() for log in logs):
            break
        time.sleep(0.1)

    files = [path for path in tmp_path.rglob("*") if path.is_file() and coders not in path.parents]
    written = {path: path.read_bytes() for path in files}
    assert len(logs) == 2 and all(b"tokens_per_second" in written[log] for log in logs)
    for path, data in written.items():
        for secret in (KEY.encode(), TOKEN.encode(), b"canary of weights"):
            assert secret not in data, path
