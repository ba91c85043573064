"""What a command costs before it does anything: its help, its completion, a refusal.

Each call is a process of its own: its processor seconds (user and system) and the most memory.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.process import ROOT
from sae_dist.apps.console import COMMANDS

SMOKE = {"commands": ("report",), "rounds": 1}
_REFUSED = {  # as a user mistypes it; elsewhere a key that there is not
    "verify": ["store=typo"],
    "train": ["store=typo", "run=a"],
    "evaluate": ["run=typo"],
    "compare": ["run=[typo]", "to=a"],
    "report": ["run=typo"],
    "dashboard": ["run=typo"],
    "export": ["run=typo", "to=saelens"],
    "plan": ["train.typo=1"],
}
_IMPORT = re.compile(r"import time:\s+\d+ \|\s+(\d+) \|\s+([a-z]\w*)$", re.MULTILINE)


def call(arguments: list[str], folder: Path, *options: str) -> tuple[float, int, int, str]:
    """Processor seconds, bytes, exit status and errors of `sae-dist arguments…` in `folder`."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *options, "-m", "sae_dist", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode()
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, process.returncode, said


def costliest_import(arguments: list[str], folder: Path) -> str:
    """The package that takes longest to import, with all that it imports."""
    said = call(arguments, folder, "-X", "importtime")[-1]
    found = {name: int(micros) for micros, name in _IMPORT.findall(said) if name != "sae_dist"}
    return max(found, key=lambda name: found[name])


def measured(arguments: list[str], status: int, rounds: int) -> dict[str, Any]:
    """Figures of one call, which has to end with `status`."""
    with tempfile.TemporaryDirectory() as folder:
        calls = [call(arguments, Path(folder)) for _ in range(rounds)]
        if {found for _, _, found, _ in calls} != {status}:
            raise RuntimeError(f"{arguments} did not end with {status}: {calls[0][-1]}")
        return {
            "seconds": round(statistics.median(seconds for seconds, *_ in calls), 3),
            "peak_bytes": max(peak for _, peak, *_ in calls),
            "costliest_import": costliest_import(arguments, Path(folder)),
        }


def summary(name: str, calls: dict[str, dict[str, Any]]) -> Figure:
    """The slowest of some calls, with all of them beside it."""
    slowest = max(calls, key=lambda command: calls[command]["seconds"])
    seconds = calls[slowest]["seconds"]
    title = f"{name}, the slowest of {len(calls)} ({slowest})"
    return Figure(title, seconds, "processor s", target="≤ 2 s", more=calls)


def run(commands: tuple[str, ...] = tuple(COMMANDS), rounds: int = 5) -> Iterator[Figure]:
    """Processor seconds: medians over `rounds` of each call, and the slowest call."""
    helps = {name: measured([name, "--help"], 0, rounds) for name in commands}
    yield summary("help", helps)
    mistakes = {name: [name, *_REFUSED.get(name, ["typo=1"])] for name in commands}
    yield summary("a refusal", {n: measured(a, 2, rounds) for n, a in mistakes.items()})
    yield summary("completion", {"completion": measured(["completion", "bash"], 0, rounds)})
