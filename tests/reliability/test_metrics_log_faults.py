"""A run killed after it has logged and before it has saved, and what its logs hold in the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from sae_dist.train.wandb_tracker import begun_as, wandb_id
from tests.apps.commands import ROOT, command, launch
from tests.train.ladders import make_store
from tests.train.test_trackers import events, files
from tests.train.wandb_files import expected_history, history_of, without_clock
from tests.train.wandb_server import KEY, wandb_server

TRAIN = (
    *("store=store", "run=r", "site=in", "tokens=1280", "batch_tokens=64", "log.every_steps=1"),
    *("log.histogram_every_steps=4", "checkpoint.every_steps=5", "log.tensorboard=true"),
    *("stream.bucket_tokens=640", "coder.num_latents=32", "coder.k=4"),
    "sweep.grids=[{coder:[topk,batchtopk],coder.dead_after_tokens:128,coder.aux_k:8}]",
)
RUNGS = ("topk-32-k4-in", "batchtopk-32-k4-in")
TIMINGS = {
    *("tokens_per_second", "stall_share", "seconds"),
    *("flops_per_second", "peak_memory_gib"),
}
KILLED_AT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from sae_dist.apps import train
from sae_dist.train import TrainingRun
save = TrainingRun._save
def save_or_die(run):
    if run.step == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    save(run)
    run.checkpoints.finish()
TrainingRun._save = save_or_die
train.main()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An undisturbed run, and one that was killed at step 15, saved at step 10, and went on."""
    pytest.importorskip("tensorboard")
    undisturbed, killed = (tmp_path_factory.mktemp(name) for name in ("undisturbed", "killed"))
    for folder in (undisturbed, killed):
        make_store(folder / "store", num_tokens=2048)
    script = KILLED_AT.format(root=str(ROOT))
    assert command("-c", script, *TRAIN, cwd=killed, WANDB_MODE="offline").returncode == -9
    lines = (killed / "runs/r/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 14
    for folder in (undisturbed, killed):
        done = command(launch("train"), *TRAIN, cwd=folder, WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
    assert "going on from runs/r/checkpoints/step-10" in done.stderr
    return undisturbed / "runs/r", killed / "runs/r"


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without timings."""
    return [{name: row[name] for name in row if name not in TIMINGS} for row in rows]


@pytest.mark.slow
def test_the_file_is_that_of_an_undisturbed_run(folders: tuple[Path, Path]) -> None:
    whole, killed = (
        figures([json.loads(line) for line in (folder / "metrics.jsonl").open()])
        for folder in folders
    )
    assert len(whole) == 20 * 3 and killed == whole


@pytest.mark.slow
@pytest.mark.parametrize("rung", RUNGS)
def test_w_and_b_has_it_once(folders: tuple[Path, Path], rung: str) -> None:
    whole, killed = ([history_of(path) for path in files(folder, rung, "r")] for folder in folders)
    assert len(whole) == len(killed) == 1
    assert [row["_step"] for row in killed[0]] == list(range(20))
    assert figures(without_clock(killed[0])) == figures(without_clock(whole[0]))
    expected = expected_history(folders[1] / "metrics.jsonl", rung)
    assert without_clock(killed[0]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("rung", RUNGS)
def test_tensorboard_shows_it_once(folders: tuple[Path, Path], rung: str) -> None:
    whole, killed = (events(folder / "tensorboard" / rung) for folder in folders)
    assert whole.Tags() == killed.Tags()
    for tag in whole.Tags()["scalars"]:
        read = [[(e.step, e.value) for e in shown.Scalars(tag)] for shown in (whole, killed)]
        steps = [step for step, _ in read[1]]
        assert steps == sorted(set(steps)) and steps == [step for step, _ in read[0]]
        assert tag in TIMINGS or read[0] == read[1]
    read = [
        [(e.step, e.histogram_value) for e in shown.Histograms("firing_frequency")]
        for shown in (whole, killed)
    ]
    assert len(read[0]) == 5 and read[0] == read[1]


@pytest.mark.slow
def test_wandb_sync_uploads_it_once(folders: tuple[Path, Path]) -> None:
    folder = folders[1]
    with wandb_server() as server:
        keys = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        done = command("-m", "wandb", "sync", "wandb", cwd=folder, **keys)
        assert done.returncode == 0, done.stderr
        for rung in RUNGS:
            rows = without_clock(server.history(wandb_id("r", rung, begun_as(folder))))
            assert rows == expected_history(folder / "metrics.jsonl", rung)
