"""What W&B and TensorBoard are given of a real run, and of one that goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.train import tensorboard_tracker
from sae_dist.train.config import LogConfig, LoopConfig, WandbMode
from sae_dist.train.metrics_log import MetricsLog
from sae_dist.train.wandb_tracker import artifact_name, begun_as, chosen_mode, wandb_id
from tests.apps.commands import ROOT
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, make_store, rung, training_run
from tests.train.test_metrics_log import RUNGS, write
from tests.train.wandb_files import (
    config_of,
    expected_history,
    history_of,
    records,
    run_of,
    without_clock,
)
from tests.train.wandb_server import KEY, WandbServer, wandb_server

STEPS = 12


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind of coder, with all parts of their losses, that wrote W&B files."""
    root = tmp_path_factory.mktemp("run")
    rungs = [
        rung("jumprelu", initial_l0=6.0, pre_act_coefficient=1e-3),
        rung("topk", k=1, multi_topk=True, dead_after_tokens=BATCH),
        rung("batchtopk", levels=[0.25]),
        rung("gated"),
    ]
    run = training_run(
        alone(),
        make_store(root / "store", num_tokens=2048),
        root / "ladder",
        rungs,
        STEPS,
        log={"wandb": WandbMode.offline, "evaluate_every_steps": 5},
    )
    run.run()
    for path in (root / "ladder").glob("wandb/offline-run-*/*.wandb"):
        assert records(path)
    return root / "ladder"


def files(folder: Path, rung: str, run: str = "ladder") -> list[Path]:
    """The W&B files of a rung, oldest first."""
    return sorted(folder.glob(f"wandb/offline-run-*/run-{id_of(folder, rung, run)}.wandb"))


def id_of(folder: Path, rung: str, run: str = "ladder") -> str:
    return wandb_id(run, rung, begun_as(folder))


def test_what_w_and_b_has_is_what_the_file_says(folder: Path) -> None:
    rungs = {json.loads(line)["rung"] for line in (folder / "metrics.jsonl").open()} - {None}
    assert len(rungs) == 4
    for name in rungs:
        (path,) = files(folder, name)
        run = run_of(path)
        assert (run.run_id, run.run_group, run.display_name) == (
            id_of(folder, name),
            "ladder",
            name,
        )
        assert run.project == "sae_dist" and config_of(path)["coder"]["num_latents"] == 32
        rows = history_of(path)
        assert [row["_step"] for row in rows] == list(range(STEPS))
        assert without_clock(rows) == expected_history(folder / "metrics.jsonl", name)


def test_every_name_that_is_logged_is_documented_and_no_other(folder: Path) -> None:
    logged = {name for line in (folder / "metrics.jsonl").open() for name in json.loads(line)} | {
        name
        for path in folder.glob("wandb/offline-run-*/*.wandb")
        for row in without_clock(history_of(path))
        for name in row
        if name != "_step"
    }
    table = (ROOT / "docs" / "metrics.md").read_text().split("\n## ")[0]
    documented = re.findall(r"^\| `([\w/.]+)` \|", table, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) - {"mfu"} == logged  # of known GPUs alone


def test_going_on_offline_leaves_one_whole_history(tmp_path: Path) -> None:
    folder = tmp_path / "ladder"
    folder.mkdir()
    offline = LogConfig(wandb=WandbMode.offline)
    write(MetricsLog(folder, "ladder", RUNGS, offline, 0), 0, 1, 2, 3)
    earlier = {rung: files(folder, rung) for rung in RUNGS}
    time.sleep(1.0)  # W&B names its folders by the second
    going_on = MetricsLog(folder, "ladder", RUNGS, offline, 2)
    assert all(path.exists() for paths in earlier.values() for path in paths)
    write(going_on, 2, 3, 4)
    for name in RUNGS:
        (path,) = files(folder, name)
        assert path not in earlier[name] and run_of(path).run_id == id_of(folder, name)
        rows = history_of(path)
        assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
        assert without_clock(rows) == expected_history(folder / "metrics.jsonl", name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # which reads the environment once
        yield server
        wandb.teardown()  # while there is somebody to tell the rest to


def test_going_on_online_resumes_the_same_runs(tmp_path: Path, server: WandbServer) -> None:
    """Killed beyond a checkpoint (W&B has more than the file), and before (it has less)."""
    folder = tmp_path / "ladder"
    folder.mkdir()
    online = LogConfig(wandb=WandbMode.online)
    write(MetricsLog(folder, "ladder", RUNGS, online, 0), 0, 1, 2, 3)
    write(MetricsLog(folder, "ladder", RUNGS, online, 2), 2, 3, 4)
    write(MetricsLog(folder, "ladder", RUNGS, LogConfig(wandb=WandbMode.disabled), 5), 5, 6)
    write(MetricsLog(folder, "ladder", RUNGS, online, 7), 7)
    assert set(server.runs) == {id_of(folder, name) for name in RUNGS}
    for name in RUNGS:
        rows = server.history(id_of(folder, name))
        assert [row["_step"] for row in rows] == list(range(8))
        assert without_clock(rows) == expected_history(folder / "metrics.jsonl", name)


def test_a_run_begun_anew_under_an_old_name_is_another_one(
    tmp_path: Path, server: WandbServer
) -> None:
    folder, online = tmp_path / "ladder", LogConfig(wandb=WandbMode.online)
    for steps in ((0, 1, 2, 3), (0, 1)):
        folder.mkdir()
        write(MetricsLog(folder, "ladder", RUNGS, online, 0), *steps)
        rows = server.history(id_of(folder, "narrow"))
        assert [row["_step"] for row in rows] == list(steps)
        shutil.rmtree(folder)
    assert len(server.runs) == 2 * len(RUNGS)


LOGINS = [
    ("api.wandb.ai", {}, "online"),
    ("wandb.here:8080", {"WANDB_BASE_URL": "https://wandb.here:8080"}, "online"),
    ("api.wandb.ai", {"WANDB_BASE_URL": "https://wandb.here"}, "offline"),
    ("elsewhere", {}, "offline"),
    ("elsewhere", {"WANDB_API_KEY": KEY}, "online"),
    ("api.wandb.ai", {"WANDB_MODE": "offline"}, "offline"),
]


def modes(world: World, folder: Path) -> list[tuple[str, str]]:
    """Of each of `LOGINS` what `auto` and `disabled` mean."""
    found = []
    for host, environment, _ in LOGINS:
        (folder / "netrc").write_text(f"machine {host} login user password {KEY}\n")
        with pytest.MonkeyPatch.context() as patch:
            for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
                patch.delenv(name, raising=False)
            for name, value in {"NETRC": str(folder / "netrc"), **environment}.items():
                patch.setenv(name, value)
            wandb.teardown()  # which reads the environment once
            found.append((chosen_mode(WandbMode.auto), chosen_mode(WandbMode.disabled)))
    return found


def test_auto_is_online_where_there_is_a_login_for_the_server(tmp_path: Path) -> None:
    """In a process of its own, where W&B has nothing of other tests to wait for."""
    (found,) = run_on(1, modes, tmp_path)
    assert found == [(mode, "disabled") for *_, mode in LOGINS]


def test_offline_files_are_uploaded_by_wandb_sync(folder: Path, server: WandbServer) -> None:
    synced = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "wandb"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert synced.returncode == 0, synced.stderr
    assert len(server.runs) == 4
    for run in server.runs.values():
        assert run["groupName"] == "ladder" and run["project"] == "sae_dist"
        assert json.loads(run["config"])["coder"]["value"]["num_latents"] == 32
        rows = server.history(run["name"])
        expected = expected_history(folder / "metrics.jsonl", run["displayName"])
        assert without_clock(rows) == expected


def test_w_and_b_that_refuses_is_told_in_one_line(tmp_path: Path, server: WandbServer) -> None:
    server.refuses = True
    with pytest.raises(UserError, match="W&B refused the run .*; log in with .* log.wandb=offline"):
        MetricsLog(tmp_path, "ladder", RUNGS, LogConfig(wandb=WandbMode.online), 0)


def test_without_the_package_tensorboard_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard_tracker, "find_spec", lambda _: None)
    store = make_store(tmp_path / "store", num_tokens=2048)
    with pytest.raises(UserError, match=r"pip install 'sae-dist\[tensorboard\]'"):
        training_run(alone(), store, tmp_path / "r", [rung("topk")], 2, log={"tensorboard": True})
    assert not LoopConfig().log.tensorboard
    assert list((tmp_path / "r").iterdir()) == []


def events(folder: Path) -> Any:
    """All events in a folder, as TensorBoard reads them."""
    package = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(package).EventAccumulator
    return accumulator(str(folder), {"scalars": 0, "histograms": 0}).Reload()


def test_tensorboard_has_what_the_file_says_and_purges_what_is_taken_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    both = LogConfig(wandb=WandbMode.disabled, tensorboard=True)
    write(MetricsLog(tmp_path, "ladder", RUNGS, both, 0), 0, 1, 2, 3)
    killed = MetricsLog(tmp_path, "ladder", RUNGS, both, 2)
    write(killed, 2, 3)
    write(MetricsLog(tmp_path, "ladder", RUNGS, both, 3), 3, 4)
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == list(RUNGS)
    for name in RUNGS:
        expected = expected_history(tmp_path / "metrics.jsonl", name)
        shown = events(tmp_path / "tensorboard" / name)
        for tag in ("loss", "tokens", "tokens_per_second", "firing_frequency/never"):
            found = [(event.step, event.value) for event in shown.Scalars(tag)]
            assert found == [(row["_step"], pytest.approx(row[tag])) for row in expected]
        for event, row in zip(shown.Histograms("firing_frequency"), expected, strict=True):
            counts, bins = row["firing_frequency"]["values"], row["firing_frequency"]["bins"]
            histogram = event.histogram_value
            assert event.step == row["_step"] and histogram.num == sum(counts)
            assert list(histogram.bucket) == counts and list(histogram.bucket_limit) == bins[1:]


def test_tensorboard_that_comes_later_is_told_what_was_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write(MetricsLog(tmp_path, "ladder", RUNGS, LogConfig(wandb=WandbMode.disabled), 0), 0, 1, 2)
    both = LogConfig(wandb=WandbMode.disabled, tensorboard=True)
    write(MetricsLog(tmp_path, "ladder", RUNGS, both, 2), 2)
    shown = events(tmp_path / "tensorboard" / "wide")
    assert [event.step for event in shown.Scalars("loss")] == [0, 1, 2]


@pytest.mark.parametrize("run_id", ["w+plus-topk-64-k4-a", "a" * 128, "plain-topk_1.5"])
def test_every_run_has_a_name_for_its_artifact(run_id: str) -> None:
    name = artifact_name(run_id)
    assert wandb.Artifact(name, type="model").name == name and len(name) <= 128
    assert name != artifact_name(run_id.replace("+", "-") + "x")
    assert (name == f"{run_id}-coder") == (run_id == "plain-topk_1.5")
