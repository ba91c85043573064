"""Run the project's commands as a user does: as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python arguments…` in `cwd`, on one thread, offline and without W&B."""
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        **environment,
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # those of this process, if it has any
        settings.pop(name, None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=settings,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def installed(name: str) -> tuple[str, ...]:
    """What `sae-dist name` calls."""
    return "-m", "sae_dist", name


def launch(name: str) -> str:
    """The path of `launch/name.py`."""
    return str(ROOT / "launch" / f"{name}.py")
