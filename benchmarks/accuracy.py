"""FVU of bfloat16 training beside float32's, at equal L0, on the quickstart's activations.

    python -m benchmarks.accuracy

Writes benchmarks/results/accuracy.json.
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.activations import TOKENS, quickstart_store, write_activations
from benchmarks.cases import PRECISIONS
from benchmarks.equal import Lever, fvu_at, next_aim
from benchmarks.run import output_of
from benchmarks.table import FOLDER, update_readme
from benchmarks.trained.task import K
from benchmarks.training import Trainer
from sae_dist.parallel import start_world

_KINDS = ["topk", "batchtopk", "jumprelu"]
_MOST_RUNS = 4
_TARGET = Lever(float(K), is_rising=True)


def train(trainer: Trainer, kind: str, precision: str) -> None:
    """One run, or for a JumpReLU as many as tell its FVU at the target."""
    if kind != "jumprelu":
        trainer.run("sae_dist", kind, precision, K)
        return
    runs: list[dict[str, Any]] = []
    while (aim := next_aim(runs, K, _TARGET)) is not None and len(runs) < _MOST_RUNS:
        run = trainer.run("sae_dist", kind, precision, aim)
        if run is None:
            return
        runs.append(run)


def rows_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kind both precisions' L0 and FVU, and the ratio of bfloat16's FVU to float32's.

    Of a JumpReLU the FVU at the target; of a TopK, whose L0 is k, and a BatchTopK, whose L0 follows
    from its inference threshold, that of the run.
    """
    rows = []
    for kind in dict.fromkeys(run["kind"] for run in runs):
        row: dict[str, Any] = {"kind": kind}
        for precision in PRECISIONS:
            own = [r for r in runs if (r["kind"], r["setting"]) == (kind, precision)]
            if kind == "jumprelu":
                fvu = fvu_at(own, K)
                l0 = None if fvu is None else float(K)
            else:
                fvu, l0 = (own[0]["fvu"], own[0]["l0"]) if own else (None, None)
            row[precision] = {"l0": l0, "fvu": fvu}
        exact, rough = (row[precision]["fvu"] for precision in PRECISIONS)
        row["ratio"] = rough / exact if exact and rough else None
        rows.append(row)
    return rows


def main() -> None:
    """Train each kind at both precisions and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="in place of the quickstart's")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--to", type=Path, default=FOLDER / "results", help="another folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_world() as world:
        data = Path(folder) / "activations.safetensors"
        sizes = write_activations(options.store or quickstart_store(), options.tokens, data)
        trainer = Trainer(data, Path(sys.executable), world, K)
        for kind in _KINDS:
            for precision in PRECISIONS:
                train(trainer, kind, precision)
    commit = output_of("git", "log", "-1", "--format=%h", "--", "sae_dist")
    content = {
        "date": datetime.date.today().isoformat(),
        "versions": {"sae_dist": commit, "torch": torch.__version__},
        **sizes,
        "rows": rows_of(trainer.runs),
        "runs": trainer.runs,
        "left_out": trainer.failed,
    }
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "accuracy.json").write_text(json.dumps(content, indent=1) + "\n")
    update_readme()


if __name__ == "__main__":
    main()
