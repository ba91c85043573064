"""One process that runs many commands: the Hub's client reads its settings when it is imported."""

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.apps.commands import ROOT


@dataclass
class Done:
    """How a command ended, and what it said."""

    status: int
    said: str


class Worker:
    """Runs commands in `folder`, in a process with these settings of the Hub's client."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.interop.worker"],
            cwd=folder,
            env={**kept, **settings, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, *arguments: str, token: str) -> Done:
        """`export` or `load` with arguments, as whoever holds the token."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, arguments, token]) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


def _export(arguments: list[str]) -> None:
    from sae_dist.apps.export import main

    sys.argv = ["export", *arguments]
    main()


def _load(arguments: list[str]) -> None:
    """Load a coder and keep its weights in `found.pt`; its error is told as a command's is."""
    import torch

    import sae_dist
    from sae_dist.apps.terminal import ended_in_one_line

    with ended_in_one_line():
        torch.save(sae_dist.load_coder(arguments[0]).state_dict(), "found.pt")


def _call(command: str, arguments: list[str]) -> Done:
    status, said = 0, io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            {"export": _export, "load": _load}[command](arguments)
        except SystemExit as ending:
            status = int(ending.code or 0)
        except Exception:
            status = 1
            traceback.print_exc()
    return Done(status, said.getvalue())


def _serve() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        command, arguments, os.environ["HF_TOKEN"] = json.loads(line)
        done = _call(command, arguments)
        answers.write(json.dumps([done.status, done.said]) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
