"""A command on several processes of this host, each of which can be sent a signal."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch

import sae_dist

_POLL_SECONDS = 0.002
_OF_A_LAUNCHER = ("TORCHELASTIC_", "GROUP_", "ROLE_", "MASTER_", "LOCAL_", "SLURM_", "PMI")


class Job:
    """The ranks of `module`'s main, started as srun starts them; use it as a context manager.

    Ranks that are left are killed at its end. What they say goes to `log`, if one is given.
    """

    def __init__(
        self, module: str, arguments: list[str], world: int, log: Path | None = None
    ) -> None:
        code = f"from {module} import main; main()"
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
        self._log = None if log is None else open(log, "ab")  # noqa: SIM115 - closed in __exit__
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=_environment(world) | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
            for rank in range(world)
        ]

    def wait(self, seconds: float | None = None) -> list[int | None]:
        """Exit statuses by rank; None for one that has not ended in time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for rank in self.ranks:
            with suppress(subprocess.TimeoutExpired):
                rank.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return [rank.returncode for rank in self.ranks]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 300.0) -> bool:
        """Wait for `condition`; False when all ranks end, or the time does, before it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or all(r.poll() is not None for r in self.ranks):
                return condition()
            time.sleep(_POLL_SECONDS)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self.ranks:
            rank.kill()
        for rank in self.ranks:
            rank.wait()
        if self._log is not None:
            self._log.close()


def _environment(world: int) -> dict[str, str]:
    """This process' environment without what its own launcher put there."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OF_A_LAUNCHER)}
    if torch.cuda.device_count() < world:  # a GPU each, or none
        kept["CUDA_VISIBLE_DEVICES"] = ""
    package = str(Path(sae_dist.__file__).parents[1])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
    kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // world)))
    return kept


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
