"""Time this project's step and its peers', one process at a time.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import FOLDER, README, with_results

OURS, NAIVE = "sae_dist", "naive torch"
_MODULES = {
    OURS: "benchmarks.steps",
    NAIVE: "benchmarks.naive",
    "sparsify": "benchmarks.peers.sparsify",
    "dictionary_learning": "benchmarks.peers.dictionary_learning",
    "SAELens": "benchmarks.peers.sae_lens",
    "Llamascopium": "benchmarks.peers.llamascopium",
}
_PACKAGES = {
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
    "SAELens": "sae-lens",
    "Llamascopium": "llamascopium",
}
_KINDS = ["topk", "batchtopk", "jumprelu"]
_WIDTHS = [16_384, 65_536]
_D_IN, _BATCH = 768, 4096
_CASE_SECONDS = 180
_NOT_RUN = "not run"
_KEYS = ["program", "kind", "num_latents", "setting"]


@dataclass(frozen=True)
class Case:
    """One program on one coder: a process of its own."""

    program: str
    kind: str
    num_latents: int
    setting: str

    def __str__(self) -> str:
        return f"{self.program} {self.kind} {self.num_latents} {self.setting}"


def own_cases() -> list[Case]:
    """This project's and the naive step, at both precisions."""
    settings = ["medium", "highest"]
    kinds = ["topk", "topk+auxk", "batchtopk", "jumprelu"]
    ours = [Case(OURS, kind, n, s) for n in _WIDTHS for kind in kinds for s in settings]
    return ours + [Case(NAIVE, kind, n, "medium") for n in _WIDTHS for kind in _KINDS]


def peer_cases(is_cuda: bool) -> list[Case]:
    """What each peer offers at the smaller width; the fastest settings, as known, come first."""
    plain = ["medium", "highest"]
    own_bf16 = ["bf16", *plain]
    lens = {"topk": ["medium+sparse", "highest+sparse", *own_bf16]}
    settings: dict[str, dict[str, list[str]]] = {
        "sparsify": {"topk": plain},
        "dictionary_learning": dict.fromkeys(_KINDS, own_bf16 if is_cuda else plain),
        "SAELens": dict.fromkeys(_KINDS, own_bf16) | lens,
        "Llamascopium": dict.fromkeys(_KINDS, own_bf16),
    }
    cases = [
        (order, Case(peer, kind, _WIDTHS[0], setting))
        for peer, kinds in settings.items()
        for kind, choices in kinds.items()
        for order, setting in enumerate(choices)
    ]
    return [case for _, case in sorted(cases, key=lambda pair: pair[0])]


def wide_cases(results: list[dict[str, Any]]) -> list[Case]:
    """The larger width, for each peer and kind in the setting that was fastest at the smaller."""
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for case in results:
        key = case["program"], case["kind"]
        if case["program"] in _PACKAGES and case["num_latents"] == _WIDTHS[0]:
            fastest[key] = min(fastest.get(key, case), case, key=lambda one: one["ms"])
    return [Case(peer, kind, _WIDTHS[1], case["setting"]) for (peer, kind), case in fastest.items()]


def run_case(case: Case, peers_python: Path) -> dict[str, Any] | str:
    """What the case printed, or why it gave nothing."""
    is_peer = case.program in _PACKAGES
    warmup, steps = (2, 5) if not is_peer else (2, 3) if case.num_latents == _WIDTHS[0] else (1, 2)
    command = [str(peers_python) if is_peer else sys.executable, "-W", "ignore", "-m"]
    command += [_MODULES[case.program], "--kind", case.kind, "--setting", case.setting]
    command += ["--num-latents", str(case.num_latents)]
    command += ["--warmup", str(warmup), "--steps", str(steps)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_CASE_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {_CASE_SECONDS} s"
    except OSError as error:
        return str(error)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
    return json.loads(lines[-1])


def combine(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each of our cases, beside the peers' fastest and the floor."""
    rows = []
    for own in (case for case in cases if case["program"] == OURS):
        same = [
            c for c in cases if (c["kind"], c["num_latents"]) == (own["kind"], own["num_latents"])
        ]
        peers: dict[str, float] = {}
        for case in same:
            if case["program"] in _PACKAGES:
                name = case["program"]
                peers[name] = min(peers.get(name, case["ms"]), case["ms"])
        naive = [case["ms"] for case in same if case["program"] == NAIVE]
        rows.append(
            {
                "kind": own["kind"],
                "dtype": "float32",
                "matmul": own["setting"],
                "num_latents": own["num_latents"],
                "d_in": _D_IN,
                "batch": _BATCH,
                "ms": own["ms"],
                "l0": own["l0"],
                "peers": peers,
                "ratio_to_best_peer": min(peers.values()) / own["ms"] if peers else None,
                "naive_ms": min(naive) if naive else None,
                "floor_ms": own["floor_ms"],
                "ratio_to_floor": own["ms"] / own["floor_ms"],
                "peak_bytes": own["peak_bytes"],
            }
        )
    return rows


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


class Results:
    """The results file and the README's table, brought up to date after every case.

    Args:
        peers_python: the interpreter that has the peers.
        keep: whether to begin with what the file holds already.
    """

    def __init__(self, peers_python: Path, *, keep: bool) -> None:
        self.machine = json.loads(output_of(sys.executable, "-m", "benchmarks.measure"))
        gpu = re.sub(r"[^a-z0-9]+", "-", self.machine["gpu"].lower()).strip("-")
        self.path = FOLDER / "results" / f"{gpu or 'cpu'}.json"
        commit = output_of("git", "log", "-1", "--format=%h", "--", "sae_dist")
        self.versions = {"sae_dist": commit, "torch": self.machine.pop("torch")}
        self.versions |= {name: version(peers_python, dist) for name, dist in _PACKAGES.items()}
        self.cases: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        if keep and self.path.exists():
            known = json.loads(self.path.read_text())
            self.cases = known["cases"]
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

    def write(self) -> None:
        """Write the file and the README, with what has not been run yet among what is left out."""
        is_cuda = bool(self.machine["gpu"])
        plan = own_cases() + peer_cases(is_cuda) + wide_cases(self.cases)
        measured = {str(Case(*(known[key] for key in _KEYS))) for known in self.cases}
        self.cases.sort(key=lambda known: [*_MODULES].index(known["program"]))
        not_run = {str(c): _NOT_RUN for c in plan if str(c) not in measured | self.failed.keys()}
        content = {
            "machine": self.machine,
            "date": datetime.date.today().isoformat(),
            "versions": self.versions,
            "steps": combine(self.cases),
            "cases": self.cases,
            "left_out": self.failed | not_run,
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n")
        README.write_text(with_results(README.read_text()))


def main() -> None:
    """Run all cases, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-bench/bin/python"))
    parser.add_argument("--only", default="", help="a regex: run these cases, keep the others")
    options = parser.parse_args()
    results = Results(options.peers_python, keep=bool(options.only))

    def run_all(cases: list[Case]) -> None:
        cases = [case for case in cases if re.search(options.only, str(case))]
        for number, case in enumerate(cases, 1):
            result = run_case(case, options.peers_python)
            results.add(case, result)
            results.write()
            said = result if isinstance(result, str) else f"{result['ms']:,.0f} ms"
            print(f"{number}/{len(cases)} {case}: {said}", flush=True)

    run_all(own_cases())
    run_all(peer_cases(bool(results.machine["gpu"])))
    run_all(wide_cases(results.cases))
    results.write()
    print(f"wrote {results.path}")


if __name__ == "__main__":
    main()
