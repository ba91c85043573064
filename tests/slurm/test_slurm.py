"""The batch scripts on a real Slurm: two nodes, both of them this machine."""

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_dist.evaluate import read_evaluation
from tests.apps.commands import TORCHRUN, command, launch
from tests.harvest.tiny import contents
from tests.slurm.cluster import Cluster, missing, wait_for
from tests.slurm.small import harvest, lines, make_home, train, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
TWO = "--ntasks-per-node=2"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    # One at a time on a machine: the scripts choose a port by the job's number.
    with open(__file__) as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run that were made without Slurm."""
    home = make_home(tmp_path_factory.mktemp("home"))
    done = command(*TORCHRUN, "2", launch("train"), *train(home, "undisturbed"), cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_an_array_fills_one_store(cluster: Cluster, home: Path) -> None:
    begun = time.monotonic()
    job = cluster.submit(
        *("--array=0-2", TWO, "launch/slurm/harvest.sbatch", *harvest(home, "array")),
    )
    states = [cluster.ended(f"{job}_{task}")["JobState"] for task in range(3)]
    assert states == ["COMPLETED"] * 3, cluster.output()
    assert contents(home / "array") == contents(home / "store")
    print(
        f"\nan array of 3 tasks, 2 processes each, filled a store: {time.monotonic() - begun:.0f} s"
    )


def test_a_training_job_goes_on_after_each_end_and_the_next_ones_wait_for_it(
    cluster: Cluster, home: Path
) -> None:
    """It is told to end, requeued by an administrator, and gives way to an urgent job."""
    begun = time.monotonic()
    job = cluster.submit(TWO, "launch/slurm/train.sbatch", *train(home, "preempted"))
    evaluate = cluster.submit(
        *(TWO, f"--dependency=afterok:{job}", "launch/slurm/evaluate.sbatch"),
        *(f"runs={home}/runs", "run=preempted", "lm_sequences=4"),
    )
    report = cluster.submit(
        *(f"--dependency=afterok:{evaluate}", "--wrap"),
        f"sae-dist report runs={home}/runs run=preempted",
    )
    interruptions = (
        lambda: cluster.ask("scancel", "--signal=TERM", job),
        lambda: cluster.ask("scontrol", "requeue", job),
        lambda: cluster.submit("--partition=urgent", "--exclusive", "--nodes=2", "--wrap", "true"),
    )

    def has_begun_again(times: int) -> bool:
        return cluster.output(job).count("going on from") == times

    for restarts, interrupt in enumerate(interruptions, start=1):
        wait_for(lambda n=restarts - 1: has_begun_again(n), 300)  # what was told to end has ended
        written = lines(home, "preempted")
        wait_for(lambda more=written: lines(home, "preempted") > more, 300)
        interrupt()
        wait_for(lambda n=restarts: cluster.job(job)["Restarts"] == str(n), 60)
    ended = cluster.ended(job)
    said = cluster.output(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "3"), said
    assert said.count("going on from") == 3 == said.count("start the command again to go on")
    assert weights(home, "preempted") == weights(home, "undisturbed") != {}
    for later in (evaluate, report):
        assert cluster.ended(later)["JobState"] == "COMPLETED", cluster.output(later)
    assert (home / "runs" / "preempted" / "report" / "index.html").exists()
    print(f"\n3 requeues, then evaluation and report: {time.monotonic() - begun:.0f} s")


def test_two_nodes_train_one_ladder_and_outlive_a_killed_rank(cluster: Cluster, home: Path) -> None:
    begun = time.monotonic()
    job = cluster.submit(
        *("--nodes=2", "--ntasks-per-node=1", "launch/slurm/train.sbatch"),
        *train(home, "two-nodes"),
    )
    latest = home / "runs" / "two-nodes" / "checkpoints" / "latest"
    wait_for(latest.exists, 300)
    (victim,) = cluster.processes(SLURM_JOB_ID=job, RANK="1")
    killed = time.monotonic()
    victim.kill()
    wait_for(lambda: cluster.job(job)["Restarts"] == "1", 60)
    seconds = time.monotonic() - killed
    ended = cluster.ended(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), cluster.output(job)
    assert weights(home, "two-nodes") == weights(home, "undisturbed") != {}
    print(f"\n2 nodes: a killed rank ended the job after {seconds:.0f} s; requeued, and in all")
    print(f"{time.monotonic() - begun:.0f} s to the same weights")


def test_a_ladder_array_trains_a_run_a_task(cluster: Cluster, home: Path) -> None:
    begun = time.monotonic()
    job = cluster.submit(
        *("--array=0-1", "--ntasks-per-node=1", "launch/slurm/ladder.sbatch"),
        *(*train(home, "ladder"), "tokens=2K"),
    )
    evaluate = cluster.submit(
        *(f"--dependency=aftercorr:{job}", "--array=0-1", "--ntasks-per-node=1"),
        *("launch/slurm/evaluate.sbatch", f"runs={home}/runs", "run=ladder", "lm_sequences=0"),
    )
    for task, k in enumerate((2, 4)):
        assert cluster.ended(f"{evaluate}_{task}")["JobState"] == "COMPLETED", cluster.output()
        figures = read_evaluation(home / "runs" / f"ladder-{task}")
        assert list(figures["rungs"]) == [f"topk-64-k{k}-resid_post.1"]
    print(f"\na rung a task, then its evaluation: {time.monotonic() - begun:.0f} s")


def test_a_mistake_is_not_requeued(cluster: Cluster, home: Path) -> None:
    mistaken = (*train(home, "mistaken"), "coder.kk=3")
    job = cluster.submit(TWO, "launch/slurm/train.sbatch", *mistaken)
    ended = cluster.ended(job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    assert ended["Restarts"] == "0"
    assert "did you mean coder.k or" in cluster.output(job)


def test_a_cancelled_job_does_not_rise_again(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(TWO, "launch/slurm/train.sbatch", *train(home, "cancelled"))
    wait_for(lambda: lines(home, "cancelled") > 0, 300)
    cluster.ask("scancel", job)
    assert cluster.ended(job)["JobState"] == "CANCELLED"
    wait_for(lambda: not cluster.processes(SLURM_JOB_ID=job), 60)
    saved = "start the command again to go on"
    assert saved in cluster.output(job)
    time.sleep(8)  # longer than a requeued job waits here
    ended = cluster.job(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
