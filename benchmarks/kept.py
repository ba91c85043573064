"""Figures of trained coders, kept run by run, so that hours of them go on where they stopped."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.equal import value_at

Run = dict[str, Any]
_MEANS = ("dead_share", "delta_loss", "processor_seconds", "seconds")


class KeptRuns:
    """A file of JSON lines, one a run.

    Args:
        path: appended to; a file that is not there holds none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.runs: list[Run] = [json.loads(line) for line in lines]

    def told(self, told: Run) -> list[Run]:
        """The runs that were told this, and perhaps more."""
        return [run for run in self.runs if all(run.get(key) == told[key] for key in told)]

    def add(self, run: Run) -> None:
        """Keep one."""
        self.runs.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def over_seeds(runs: Sequence[Run], l0: float | None) -> Run | None:
    """Means over seeds of what was measured; of FVU also the sample's standard deviation.

    Args:
        runs: of one program, kind and setting.
        l0: at which they are compared, on the line between a seed's runs; None: each seed has one
            run, which counts as it is.

    Returns:
        with the number of `seeds` that got to that L0; None where none did.
    """
    by_seed = [[r for r in runs if r["seed"] == seed] for seed in {r["seed"]: 0 for r in runs}]
    if l0 is not None:
        by_seed = [own for own in by_seed if value_at(own, l0) is not None]
    if not by_seed:
        return None

    def values(key: str) -> list[float]:
        found = [own[0].get(key) if l0 is None else value_at(own, l0, key) for own in by_seed]
        return [value for value in found if value is not None]

    fvus = values("fvu")
    l0s = [run["l0"] for own in by_seed for run in own]
    return {
        "seeds": len(fvus),
        "l0": statistics.mean(l0s) if l0 is None else l0,
        "fvu": statistics.mean(fvus),
        "deviation": statistics.stdev(fvus) if len(fvus) > 1 else None,
        **{key: statistics.mean(values(key)) if values(key) else None for key in _MEANS},
    }


def nearest_aim(runs: Sequence[Run], l0: float) -> float | None:
    """What the run was told that came nearest to an L0; None of none."""
    nearest = min(runs, key=lambda run: abs(math.log(max(run["l0"], 1e-3) / l0)), default=None)
    return nearest and nearest["aim"]
