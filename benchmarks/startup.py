"""Measure what a command costs before it does anything: its help, its completion, a refusal.

    python -m benchmarks.startup

Each call is a process of its own: its processor seconds (user and system), medians over `--rounds`,
the most memory it took, and the package whose import costs it most (by `-X importtime`). Writes
`results/startup.json` and the README's table.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.run import output_of
from benchmarks.table import FOLDER, update_readme
from sae_dist.apps.console import COMMANDS

ROOT = FOLDER.parent
REFUSED = {  # as a user mistypes it; elsewhere a key that there is not
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
        assert {found for _, _, found, _ in calls} == {status}, calls[0][-1]
        return {
            "arguments": arguments,
            "seconds": round(statistics.median(seconds for seconds, *_ in calls), 3),
            "peak_bytes": max(peak for _, peak, *_ in calls),
            "costliest_import": costliest_import(arguments, Path(folder)),
        }


def processor() -> str:
    """Its name, and whether it multiplies vectors of 512 bits."""
    if not Path("/proc/cpuinfo").exists():
        return platform.processor()
    about = Path("/proc/cpuinfo").read_text()
    name, family, model = (
        re.search(rf"^{key}\s*: (.*)$", about, re.MULTILINE)[1]  # type: ignore[index]
        for key in ("model name", "cpu family", "model")
    )
    wide = "AVX-512" if "avx512f" in about else "no AVX-512"
    return f"{name} (family {family}, model {model}; {wide})"


def main() -> None:
    """Measure all commands, one call after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--to", type=Path, default=FOLDER / "results", help="another folder")
    options = parser.parse_args()
    answered = {name: measured([name, "--help"], 0, options.rounds) for name in COMMANDS}
    refused = {
        name: measured([name, *REFUSED.get(name, ["typo=1"])], 2, options.rounds)
        for name in COMMANDS
    }
    content = {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "sae_dist": output_of("git", "log", "-1", "--format=%h", "--", "sae_dist"),
            "python": platform.python_version(),
        },
        "processor": processor(),
        "rounds": options.rounds,
        "help": answered,
        "refusal": refused,
        "completion": measured(["completion", "bash"], 0, options.rounds),
        "left_out": {},
    }
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "startup.json").write_text(json.dumps(content, indent=1) + "\n")
    update_readme()


if __name__ == "__main__":
    main()
