"""The batch scripts without Slurm: recorders stand in for its commands and for Python."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.apps.commands import ROOT
from tests.slurm.cluster import wait_for

SCRIPTS = sorted((ROOT / "launch" / "slurm").iterdir())
# srun's part: the environment of one task. The rest tell what they were called with.
STAND_INS = {
    "srun": 'SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 exec "$@"',
    "python": 'echo "python $* | $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT" >>calls\n'
    'touch started; while [ -e hold ]; do sleep 0.05; done; exit "$STATUS"',
    "scontrol": '[ "$1" = show ] && printf "node7\\nnode8\\n" || echo "scontrol $*" >>calls',
    "squeue": 'echo "$STATE"',
}
JOB = {"SLURM_JOB_ID": "20042", "SLURM_JOB_NODELIST": "node[7-8]", "STATE": "RUNNING"}
TASK = {**JOB, "SLURM_ARRAY_JOB_ID": "20040", "SLURM_ARRAY_TASK_ID": "1"}
REQUEUE = "scontrol requeue 20042"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder to submit from, where Slurm's commands and Python are recorders."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "slurm").symlink_to(ROOT / "launch" / "slurm")
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return tmp_path


def start(
    checkout: Path, script: str, *arguments: str, **variables: str
) -> subprocess.Popen[bytes]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "MASTER"))}
    inherited["PATH"] = f"{checkout / 'bin'}{os.pathsep}{inherited['PATH']}"
    return subprocess.Popen(
        ["bash", f"launch/slurm/{script}.sbatch", *arguments],
        cwd=checkout,
        env={**inherited, "STATUS": "0", **variables},
        stderr=subprocess.DEVNULL,
    )


def calls(checkout: Path, script: str, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Run a script to its end: its status, and the calls that were made."""
    status = start(checkout, script, *arguments, **variables).wait(30)
    return status, (checkout / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is not None:
        subprocess.run(["shellcheck", "--external-sources", script], check=True, cwd=ROOT)
    if script.suffix == ".sbatch":
        assert f"launch/slurm/{script.name}" in script.read_text().split("#SBATCH")[0]


def test_each_process_is_told_its_place(checkout: Path) -> None:
    status, made = calls(checkout, "train", "store=s", "sites=[a b]", **JOB)
    assert status == 0
    assert made == ["python -m sae_dist train store=s sites=[a b] | 3 1 4 node7 10042"]


@pytest.mark.parametrize(
    ("status", "restarts", "state", "is_requeued"),
    [
        ("0", "0", "RUNNING", False),
        ("2", "0", "RUNNING", False),  # a mistake
        ("75", "0", "RUNNING", True),  # asked to end
        ("75", "99", "RUNNING", True),
        ("75", "100", "RUNNING", False),  # more than enough
        ("75", "0", "COMPLETING", False),  # cancelled, or requeued already
        ("143", "50", "RUNNING", True),  # SIGTERM
        ("1", "2", "RUNNING", True),  # a crash
        ("137", "3", "RUNNING", False),  # crashes again and again
    ],
)
def test_what_an_end_leads_to(
    checkout: Path, status: str, restarts: str, state: str, is_requeued: bool
) -> None:
    job = {**JOB, "STATUS": status, "SLURM_RESTART_COUNT": restarts, "STATE": state}
    ended, made = calls(checkout, "train", "run=a", **job)
    assert ended == int(status)
    assert (REQUEUE in made) == is_requeued


def test_the_limits_can_be_chosen(checkout: Path) -> None:
    job = {**JOB, "SLURM_RESTART_COUNT": "5", "RESTARTS": "5", "CRASHES": "6"}
    assert REQUEUE not in calls(checkout, "train", **job, STATUS="75")[1]
    assert REQUEUE in calls(checkout, "train", **job, STATUS="1")[1]


def test_a_signal_to_the_script_waits_for_the_processes(checkout: Path) -> None:
    (checkout / "hold").touch()
    script = start(checkout, "train", "run=a", **JOB, STATUS="9", SLURM_RESTART_COUNT="50")
    try:
        wait_for((checkout / "started").exists, 30)
        script.send_signal(signal.SIGTERM)
        (checkout / "hold").unlink()
        assert script.wait(30) == 9
    finally:
        (checkout / "hold").unlink(missing_ok=True)
        script.wait(30)
    assert REQUEUE in (checkout / "calls").read_text()  # no crash: it was asked to end


def test_a_task_of_a_ladder_has_a_run_and_rungs_of_its_own(checkout: Path) -> None:
    script = ("ladder", "runs=r", "run=a")
    status, made = calls(checkout, *script, **TASK, STATUS="75")
    assert status == 75
    assert made[0].startswith("python -m sae_dist train runs=r run=a-1 rungs=[1] |")
    assert made[1] == "scontrol requeue 20040_1"
    _, made = calls(checkout, *script, **TASK, RUNGS="0,1,2 3,4")
    assert made[-1].startswith("python -m sae_dist train runs=r run=a-1 rungs=[3,4] |")


def test_evaluation_finds_the_run_alone_and_in_an_array(checkout: Path) -> None:
    _, made = calls(checkout, "evaluate", "run=a", **JOB)
    _, later = calls(checkout, "evaluate", "run=a", **TASK)
    assert made[0].startswith("python -m sae_dist evaluate run=a |")
    assert later[1].startswith("python -m sae_dist evaluate run=a-1 |")


def test_all_tasks_of_a_harvest_fill_the_same_store(checkout: Path) -> None:
    _, made = calls(checkout, "harvest", "store=s", "tokens=1M", **TASK)
    assert made[0].startswith("python -m sae_dist harvest store=s tokens=1M |")
