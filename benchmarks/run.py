"""Time this project's step and its peers', then stream and harvest, one process at a time.

    make bench
    python -m benchmarks.run --peers-python .venv-bench/bin/python --only 'sparsify|SAELens'

Writes benchmarks/results/cpu.json, or that of the GPU by its name, after every case.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cases import (
    MODULES,
    ON_CPU,
    ON_GPU,
    PACKAGES,
    Case,
    combine,
    own_cases,
    peer_cases,
    wide_cases,
)
from benchmarks.table import FOLDER, update_readme

_PARTS = ["stream", "harvest"]  # each a module that prints its figures
_PART_SECONDS = 900
_NOT_RUN = "not run"


def run_json(
    command: list[str], seconds: float, given: dict[str, str] | None = None
) -> dict[str, Any] | str:
    """The last line of JSON that a command prints, or why it gave none.

    Args:
        command: run from the repository's root.
        seconds: after which it is ended.
        given: to its environment.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"} | (given or {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {seconds:g} s"
    except OSError as error:
        return str(error)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
    return json.loads(lines[-1])


def output_of(*command: str) -> str:
    """What a command prints; nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(python: Path, package: str) -> str:
    """The installed version, or that there is none."""
    code = f"from importlib.metadata import version as v; print(v({package!r}))"
    return output_of(str(python), "-c", code) or "not installed"


def versions_of(peers_python: Path) -> dict[str, str]:
    """The commit this project is at, and the versions of its peers."""
    commit = output_of("git", "log", "-1", "--format=%h", "--", "sae_dist")
    peers = {name: version(peers_python, package) for name, package in PACKAGES.items()}
    return {"sae_dist": commit, **peers}


class Results:
    """The results file and the README's tables, brought up to date after every case.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.machine = json.loads(output_of(sys.executable, "-m", "benchmarks.measure"))
        self.is_cuda = bool(self.machine["gpu"])
        self.sizes = ON_GPU if self.is_cuda else ON_CPU
        if options.batch:
            self.sizes = replace(self.sizes, batch=options.batch)
        gpu = re.sub(r"[^a-z0-9]+", "-", self.machine["gpu"].lower()).strip("-")
        self.path = options.to / f"{gpu or 'cpu'}.json"
        self.versions = {"torch": self.machine.pop("torch"), **versions_of(options.peers_python)}
        self.cases: list[dict[str, Any]] = []
        self.parts: dict[str, Any] = dict.fromkeys(_PARTS)
        self.failed: dict[str, str] = {}
        if options.only and self.path.exists():
            known = json.loads(self.path.read_text())
            self.cases = known["cases"]
            self.parts = {part: known[part] for part in _PARTS}
            self.failed = {k: v for k, v in known["left_out"].items() if v != _NOT_RUN}

    def add(self, case: Case, result: dict[str, Any] | str) -> None:
        """Note what a case gave, in place of what it gave before."""
        self.failed.pop(str(case), None)
        same = vars(case).items()
        self.cases = [known for known in self.cases if not same <= known.items()]
        if isinstance(result, str):
            self.failed[str(case)] = result
        else:
            self.cases.append(vars(case) | result)

    def add_part(self, part: str, result: dict[str, Any] | str) -> None:
        """Note what stream or harvest gave."""
        self.failed.pop(part, None)
        self.parts[part] = None if isinstance(result, str) else result
        if isinstance(result, str):
            self.failed[part] = result

    def plan(self) -> list[str]:
        """All that belongs to a whole run, as far as it can be known yet."""
        cases = own_cases(self.sizes) + peer_cases(self.sizes, is_cuda=self.is_cuda)
        return [str(case) for case in cases + wide_cases(self.sizes, self.cases)] + _PARTS

    def write(self) -> None:
        """Write the file and the README, with what has not been run yet among what is left out."""
        fields = Case.__dataclass_fields__
        there = {str(Case(**{key: known[key] for key in fields})) for known in self.cases}
        there |= self.failed.keys() | {part for part in _PARTS if self.parts[part]}
        self.cases.sort(
            key=lambda known: (
                [*MODULES].index(known["program"]),
                known["num_latents"],
                known["kind"],
            )
        )
        content = {
            "machine": self.machine,
            "date": datetime.date.today().isoformat(),
            "versions": self.versions,
            "steps": combine(self.cases),
            **self.parts,
            "cases": self.cases,
            "left_out": self.failed | {name: _NOT_RUN for name in self.plan() if name not in there},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n")
        update_readme()


def run_cases(cases: list[Case], results: Results, options: argparse.Namespace) -> None:
    """Run those of the cases that are asked for."""
    cases = [case for case in cases if re.search(options.only, str(case))]
    for number, case in enumerate(cases, 1):
        python = str(options.peers_python) if case.program in PACKAGES else sys.executable
        budget = ["--seconds", str(options.seconds)]
        result = run_json([python, "-W", "ignore", *case.arguments, *budget], options.limit)
        results.add(case, result)
        results.write()
        said = result if isinstance(result, str) else f"{result['ms']:,.0f} ms"
        print(f"{number}/{len(cases)} {case}: {said}", flush=True)


def run_parts(results: Results, options: argparse.Namespace) -> None:
    """Run stream and harvest, if they are asked for."""
    for part in _PARTS:
        if re.search(options.only, part):
            command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{part}"]
            result = run_json(command, _PART_SECONDS)
            results.add_part(part, result)
            results.write()
            print(f"{part}: {result if isinstance(result, str) else 'done'}", flush=True)


def main() -> None:
    """Run everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-bench/bin/python"))
    parser.add_argument("--only", default="", help="a regex: run these, keep the others' figures")
    parser.add_argument("--seconds", type=float, default=10.0, help="to time a case's steps for")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds after which a case ends"
    )
    parser.add_argument("--batch", type=int, help="another batch size, for a trial")
    parser.add_argument("--to", type=Path, default=FOLDER / "results", help="another folder")
    options = parser.parse_args()
    results = Results(options)
    run_cases(own_cases(results.sizes), results, options)
    run_cases(peer_cases(results.sizes, is_cuda=results.is_cuda), results, options)
    run_cases(wide_cases(results.sizes, results.cases), results, options)
    run_parts(results, options)
    results.write()
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
