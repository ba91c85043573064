"""FVU of this project's coders and its peers', trained on the same tokens in the same order.

    python -m benchmarks.quality --peers-python .venv-bench/bin/python

Writes benchmarks/results/quality.json after every run. TopK is compared at k; JumpReLU at equal L0:
each program is steered by its own lever until two runs lie on either side of the target. Both over
three seeds, but for a JumpReLU by a peer's own defaults: over one.
"""

import argparse
import datetime
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.activations import TOKENS, quickstart_store, write_activations
from benchmarks.equal import Lever, best, next_aim
from benchmarks.run import versions_of
from benchmarks.table import FOLDER, update_readme
from benchmarks.trained.task import BATCH, NUM_LATENTS, K
from benchmarks.training import Trainer
from sae_dist.parallel import start_world

_PEERS = ["sparsify", "dictionary_learning", "SAELens", "Llamascopium"]
_MOST_RUNS = 4  # of one program's JumpReLU
_SEEDS = range(3)
_TARGET = Lever(float(K), is_rising=True)
_LEVERS = {
    ("sae_dist", "float32"): _TARGET,
    ("dictionary_learning", "same"): _TARGET,
    ("dictionary_learning", "own"): _TARGET,
    ("SAELens", "same"): _TARGET,
    ("SAELens", "own"): Lever(1.0, is_rising=False),
    ("Llamascopium", "same"): Lever(0.5, is_rising=False),
    ("Llamascopium", "own"): Lever(0.5, is_rising=False),
}


def compare(trainer: Trainer, path: Path, about: dict[str, Any]) -> None:
    """Make all runs, and write what they gave after every one."""
    settings = [("sae_dist", "float32"), *((p, s) for p in _PEERS for s in ("same", "own"))]
    for program, setting in settings:
        for seed in _SEEDS:
            trainer.run(program, "topk", setting, K, seed)
            write(trainer, path, about)
    for (program, setting), lever in _LEVERS.items():
        for seed in _SEEDS if setting != "own" else [0]:
            lever = steer(trainer, path, about, program, setting, lever, seed)


def steer(
    trainer: Trainer,
    path: Path,
    about: dict[str, Any],
    program: str,
    setting: str,
    lever: Lever,
    seed: int,
) -> Lever:
    """Bring a program's JumpReLU to the target L0; where the next seed may begin."""
    runs: list[dict[str, Any]] = []
    while (aim := next_aim(runs, K, lever)) is not None and len(runs) < _MOST_RUNS:
        run = trainer.run(program, "jumprelu", setting, aim, seed)
        write(trainer, path, about)
        if run is None:
            return lever
        runs.append(run)
    nearest = min(runs, key=lambda run: abs(math.log(max(run["l0"], 1e-3) / K)))
    return replace(lever, first=nearest["aim"])


def write(trainer: Trainer, path: Path, about: dict[str, Any]) -> None:
    """Write all runs so far, and by kind each program's best at the target L0."""
    kinds = dict.fromkeys(run["kind"] for run in trainer.runs)
    rows = {kind: best([r for r in trainer.runs if r["kind"] == kind], K) for kind in kinds}
    content = about | {"best": rows, "runs": trainer.runs, "left_out": trainer.failed}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    update_readme()


def main() -> None:
    """Make the activations, train everything, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-bench/bin/python"))
    parser.add_argument("--store", type=Path, help="in place of the quickstart's")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--to", type=Path, default=FOLDER / "results", help="another folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_world() as world:
        data = Path(folder) / "activations.safetensors"
        sizes = write_activations(options.store or quickstart_store(), options.tokens, data)
        about = {
            "date": datetime.date.today().isoformat(),
            "versions": {"torch": torch.__version__, **versions_of(options.peers_python)},
            "num_latents": NUM_LATENTS,
            "target_l0": K,
            "batch": BATCH,
            **sizes,
        }
        trainer = Trainer(data, options.peers_python, world, K)
        compare(trainer, options.to / "quality.json", about)


if __name__ == "__main__":
    main()
