"""Training under faults: exact resumption, bad values, and processes that die, stop or fail."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_dist.coders import load_coder
from sae_dist.parallel import World
from sae_dist.train import Preempted, SharedRows, TrainingRun, signals, training_step
from tests.apps.commands import ROOT, TORCHRUN, launch
from tests.coders.kinds import KINDS
from tests.processes import run_on
from tests.train.ladders import BATCH, D, every_optimizer, make_store, rung, training_run

STEPS = 20  # an epoch of the small store has fewer
SETTINGS = (
    *("store=store", "run=r", "site=in", "coder=topk", "coder.num_latents=32", "coder.k=4"),
    *("tokens=19200", "batch_tokens=64", "stream.bucket_tokens=640"),
    *("checkpoint.every_steps=50", "log.every_steps=1", "watch.stall_seconds=15"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store", num_tokens=1024)


def run_to(world: World, store: Path, folder: Path, latent: int, stops: list[int]) -> dict:
    """Every rung's tensors and numbers at the end, after stops by SIGTERM or SIGUSR1."""
    signals._ASK_SECONDS = 0.0
    rungs = [rung("jumprelu", latent=latent), *every_optimizer(latent)]
    for stop in [*stops, STEPS]:
        run = training_run(world, store, folder, rungs, STEPS, every_steps=1000)
        if stop < STEPS:
            _ask_to_end_at(run, stop, world)
            with pytest.raises(Preempted, match=f"saved at step {stop}"):
                run.run()
        else:
            run.run()
    state: dict[str, Any] = {n: t.full_tensor().numpy() for n, t in run._tensors().items()}
    return state | {rung.name: rung.numbers() for rung in run.rungs}


def _ask_to_end_at(run: Any, stop: int, world: World) -> None:
    """Two signals to one process, while the step's sums are under way on all."""
    real = run._step

    def step(acts: dict) -> list:
        if run.step == stop - 1 and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(acts)

    run._step = step


@pytest.mark.parametrize(("processes", "latent"), [(1, 1), (4, 2)])
def test_three_stops_at_random_steps_change_no_bit(
    store: Path, tmp_path: Path, processes: int, latent: int
) -> None:
    stops = sorted(random.Random(processes).sample(range(2, STEPS), 3))
    whole = run_on(processes, run_to, store, tmp_path / "whole", latent, [])[0]
    stopped = run_on(processes, run_to, store, tmp_path / "stopped", latent, stops)[0]
    assert whole.keys() == stopped.keys()
    for name, value in whole.items():
        assert np.array_equal(value, stopped[name]), (name, stops)
    assert figures(tmp_path / "whole") == figures(tmp_path / "stopped")


def figures(folder: Path) -> list[tuple[int, str, float]]:
    """(step, rung, loss) of each line of a run's figures."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["rung"], line["loss"]) for line in lines if line["rung"]]


def bad_rows_on_one_process(world: World, store: Path, folder: Path, values: list[float]) -> list:
    """Of each value: whether nothing changed but what counts skipped steps, in rungs that read it
    and in one that did not; and how often each was updated and skipped after a good batch."""
    other = rung("topk", latent=2)
    other.name, other.site, other.target = "other-site", "out", "out"
    rungs = [*(rung(kind, latent=2) for kind in KINDS), other]
    run = training_run(world, store, folder, rungs, 4)
    run.run()
    generator = torch.Generator().manual_seed(world.rank)
    good = {
        site: torch.rand(BATCH // 4, width, dtype=torch.float64, generator=generator)
        for site, width in (("in", D), ("out", 12))
    }
    return [_step_with(run, _with_bad(good, value, world), good) for value in values]


def _with_bad(acts: dict[str, Tensor], value: float, world: World) -> dict[str, Tensor]:
    """The same with one bad value, on the last process."""
    bad = {site: acts_BD.clone() for site, acts_BD in acts.items()}
    if world.rank == world.size - 1:
        bad["in"][1, 2] = value
    return bad


def _step_with(run: TrainingRun, bad: dict[str, Tensor], good: dict[str, Tensor]) -> list:
    before = [[t.clone() for _, t, _ in rung.held()] for rung in run.rungs]
    numbers = [rung.numbers() for rung in run.rungs]
    rows = SharedRows(bad, torch.float64)
    for trained in run.rungs:
        training_step(trained, rows, 8, 100)
    unchanged = [
        all(map(torch.equal, held, [t for _, t, _ in rung.held()]))
        and rung.numbers() == {**was, "num_skipped": was["num_skipped"] + 1, "skipped_in_a_row": 1}
        for rung, held, was in zip(run.rungs, before, numbers, strict=True)
    ]
    rows = SharedRows(good, torch.float64)
    for trained in run.rungs:
        training_step(trained, rows, 9, 100)
    numbers = [rung.progress.numbers() for rung in run.rungs]
    names = ("num_updates", "num_skipped", "skipped_in_a_row")
    return [unchanged, *([n[name] for n in numbers] for name in names)]


def test_bad_values_on_one_process_are_skipped_by_all_and_touch_no_other_rung(
    store: Path, tmp_path: Path
) -> None:
    values = [torch.nan, torch.inf, -1e200]
    results = run_on(4, bad_rows_on_one_process, store, tmp_path, values)
    expected = [
        [[True] * 3 + [False], [4 + n] * 3 + [4 + 2 * n], [n] * 3 + [0], [0] * 4] for n in (1, 2, 3)
    ]
    assert results == [expected] * 4


class Job:
    """`launch/train.py` under torchrun on four processes, in a folder with a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        settings = {name: value for name, value in os.environ.items() if name not in names}
        settings |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        with open(folder / "out", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *TORCHRUN, "4", launch("train"), *SETTINGS],
                cwd=folder,
                env=settings,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def workers(self) -> list[int]:
        """The four processes, by rank: they are started in that order."""
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        )
        return sorted(map(int, found.stdout.split()))[:4]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 240
        path = self.folder / "runs/r/metrics.jsonl"
        while not path.exists() or f'"step": {step},' not in path.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.lines()
            time.sleep(0.05)

    def ends_within(self, seconds: float) -> float:
        begun = time.monotonic()
        assert self.process.wait(seconds) != 0
        return time.monotonic() - begun

    def lines(self) -> list[str]:
        """The error lines of all ranks."""
        text = (self.folder / "out").read_text().replace("\r", "\n")
        return [line for line in text.splitlines() if re.match(r"error( \(rank \d\))?: ", line)]


def finished(folder: Path) -> dict[str, Any]:
    """Run (or go on) to the end: the coder's weights and all figures."""
    with Job(folder) as job:
        assert job.process.wait(300) == 0, (folder / "out").read_text()[-3000:]
    (coder,) = (folder / "runs/r/coders").iterdir()
    weights = {name: t.numpy().tobytes() for name, t in load_coder(coder).state_dict().items()}
    return {**weights, "figures": figures(folder / "runs/r")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_store(folder / "store", num_tokens=2048)
    return finished(folder)


def _damage(job: Job) -> None:
    """Flip a bit in every chunk of every shard: whichever rank reads one next, fails."""
    for shard in (job.folder / "store/rows/activations/in").glob("c.*"):
        data = bytearray(shard.read_bytes())
        for place in range(64, len(data) - 64, 1024):
            data[place] ^= 1
        shard.write_bytes(data)


def _signal(number: int) -> Callable[[Job], None]:
    return lambda job: os.kill(job.workers()[2], number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_signal(signal.SIGKILL), r"rank 2 of 4 \(.*\) has given no sign of life for \d+ s"),
        (_signal(signal.SIGSTOP), r"rank 2 of 4 \(.*\) has given no sign of life for \d+ s"),
        (_damage, r"chunk"),
    ],
    ids=["killed", "stopped", "damaged store"],
)
def test_one_bad_process_ends_all_and_the_command_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any], fault: Callable[[Job], None], said: str
) -> None:
    store = make_store(tmp_path / "store", num_tokens=2048)
    whole = {path: path.read_bytes() for path in store.rglob("c.*") if path.is_file()}
    with Job(tmp_path) as job:
        job.wait_for_step(70)
        fault(job)
        seconds = job.ends_within(60)
        lines = job.lines()
    print(f"{said[:20]}: all ended after {seconds:.1f} s, {len(lines)} lines, {lines[0]}")
    assert len(lines) >= 3 and all(re.search(said, line) for line in lines), lines
    for path, data in whole.items():
        path.write_bytes(data)
    assert finished(tmp_path) == undisturbed


@pytest.mark.slow
def test_sigterm_saves_and_the_command_goes_on(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    with Job(tmp_path) as job:
        job.wait_for_step(70)
        for _ in range(2):
            os.kill(job.workers()[1], signal.SIGTERM)
        seconds = job.ends_within(60)
        text = (tmp_path / "out").read_text()
    print(f"saved and ended after {seconds:.1f} s")
    assert re.search(r"saved at step \d+; start the command again", text)
    assert re.search(r"exitcode\s*: 75", text) and not job.lines()
    assert finished(tmp_path) == undisturbed
