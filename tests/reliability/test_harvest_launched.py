"""A launched harvest one of whose processes is killed: it ends at once, and is gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sae_dist.store import verify
from tests.apps.commands import ROOT, launch
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model
from tests.reliability.jobs import DEADLINE, committed, torn, wait_until

HARVEST = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *(launch("harvest"), "lm.name=lm", "text.path=text", "text.sequence_length=32"),
    *("sites=[embed,resid_post.1]", "tokens=300K", "store=store", "harvest.batch_sequences=1"),
    *("writer.chunk_mib=0.03", "writer.shard_mib=0.06"),
)


def started(home: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    with (home / "log").open("a") as log:
        return subprocess.Popen([sys.executable, *HARVEST], cwd=home, env=environment, stderr=log)


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that the launcher started and that have a rank."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return sorted(child.pid for child in children if "RANK" in child.environ())


@pytest.mark.slow
def test_a_killed_process_ends_a_launched_harvest_and_the_next_start_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "text").mkdir()
    lines = (f"the {a} of the {b} saw one {a}\n" for a in "abcdefgh" for b in "stuvwxyz")
    (tmp_path / "text" / "text.txt").write_text("".join(lines) * 600)
    tiny_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    launcher = started(tmp_path)
    try:
        store = tmp_path / "store"
        wait_until(lambda: len(committed(store)) > 3)
        killed, other = workers(launcher)
        os.kill(killed, signal.SIGKILL)
        begin = time.monotonic()
        assert launcher.wait(DEADLINE) != 0
        print(f"ended {time.monotonic() - begin:.1f} s after the kill")
        wait_until(lambda: not Path(f"/proc/{other}").exists(), DEADLINE)
    finally:
        launcher.terminate()
        launcher.wait()
    done = committed(tmp_path / "store")
    assert not (tmp_path / "store" / "MANIFEST.json").exists() and not torn(tmp_path / "store")
    again = started(tmp_path)
    try:
        assert again.wait(600) == 0, (tmp_path / "log").read_text()[-2000:]
    finally:
        again.terminate()
        again.wait()
    log = (tmp_path / "log").read_text()
    assert "sealed store" in log
    assert set(done) <= set(committed(tmp_path / "store"))
    assert verify(tmp_path / "store", full=True) == []
