import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sae_dist.common.errors import UserError
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
        measures = {"loss": 1 / (step + 1), "firing_frequency": histogram}
        figures: dict[str | None, Any] = dict.fromkeys(RUNGS, measures)
        opened.write(step, step * 64, figures | {None: {"tokens_per_second": 9.0}})
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


class SlowTracker:
    """Tells nothing before it may; then it fails, if it shall."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_go_on, self.error = threading.Event(), error
        self.told: list[tuple[str, int]] = []

    def first_missing(self, rung: str) -> int:
        assert self.may_go_on.wait(60)
        if self.error is not None:
            raise self.error
        return 1

    def write(self, rung: str, step: int, measures: dict[str, Any], ends_step: bool) -> None:
        self.told.append((rung, step))

    def flush(self) -> None: ...

    def close(self, coders: Path | None) -> None: ...


def test_nobody_waits_for_a_tracker(tmp_path: Path) -> None:
    opened, tracker = journal(tmp_path), SlowTracker()
    opened._trackers.append(tracker)
    threading.Timer(0.5, tracker.may_go_on.set).start()
    write(opened, 0, 1, 2)  # and closes
    assert sorted(set(tracker.told)) == [(rung, step) for rung in RUNGS for step in (1, 2)]
    assert len(tracker.told) == 2 * 2 * len(RUNGS)  # a rung's own figures, and the ladder's


def test_a_tracker_that_fails_ends_the_run(tmp_path: Path) -> None:
    opened, tracker = journal(tmp_path), SlowTracker(UserError("no room"))
    opened._trackers.append(tracker)
    tracker.may_go_on.set()
    with pytest.raises(UserError, match="no room"):
        write(opened, *range(1000))
    assert lines(tmp_path)[0]["step"] == 0


@pytest.mark.parametrize("mode", [WandbMode.offline, WandbMode.auto])
def test_offline_gives_one_run_a_rung_without_weights_or_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: WandbMode
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # what `auto` follows
    coders = tmp_path / "coders" / "narrow"
    coders.mkdir(parents=True)
    (coders / "coder.safetensors").write_bytes(b"canary of weights")
    opened = journal(tmp_path, mode=mode)
    opened.write(0, 64, {"narrow": {"loss": 1.0}, None: {"tokens_per_second": 9.0}})
    opened.close(tmp_path / "coders")
    (tracker,) = opened._trackers
    assert isinstance(tracker, WandbTracker)
    runs = tracker._runs
    assert {name: (run.name, run.group, run.project) for name, run in runs.items()} == {
        name: (name, "ladder", "sae_dist") for name in RUNGS
    }
    ids = {wandb_id("ladder", rung, begun_as(tmp_path)) for rung in ("narrow", "wide")}
    assert {run.id for run in runs.values()} == ids
    assert {run.config["coder"]["num_latents"] for run in runs.values()} == {16, 32}
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
