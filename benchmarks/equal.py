"""Comparing coders at equal L0: which run to make next, and what the runs say at a target."""

import math
from dataclasses import dataclass
from typing import Any

_NEAR = 0.01  # an L0 so close to the target, as a share, needs no second run
_MIN_MOVE = 1.15


@dataclass(frozen=True)
class Lever:
    """How a kind of coder is steered towards an L0.

    Attributes:
        first: the value of the first run.
        is_rising: a higher value gives a higher L0 (a target), or a lower one (a penalty).
    """

    first: float
    is_rising: bool


def next_aim(runs: list[dict[str, Any]], target: float, lever: Lever) -> float | None:
    """The next run's aim; None once runs on both sides of the target, or one close by, are there.

    Args:
        runs: made so far, each with `aim` and `l0`.
        target: the L0 to compare at.
        lever: of the program.
    """
    if not runs:
        return lever.first
    l0s = [run["l0"] for run in runs]
    is_bracketed = min(l0s) <= target <= max(l0s)
    if is_bracketed or min(abs(l0 / target - 1) for l0 in l0s) < _NEAR:
        return None
    last = min(runs, key=lambda run: abs(math.log(max(run["l0"], 1e-3) / target)))
    # as if L0 went with the aim, or with one over it, and somewhat beyond
    move = (target / max(last["l0"], 1e-3)) ** 1.2
    move = max(move, _MIN_MOVE) if move > 1 else min(move, 1 / _MIN_MOVE)
    return last["aim"] * (move if lever.is_rising else 1 / move)


def value_at(runs: list[dict[str, Any]], target: float, key: str = "fvu") -> float | None:
    """A figure at the target L0, on the line between its neighbours in log L0, and in log FVU.

    A run within 1 % of the target stands for it where there is none on the other side; else None.
    None, too, of what was not measured.
    """
    below = [run for run in runs if run["l0"] <= target]
    above = [run for run in runs if run["l0"] >= target]
    if below and above:
        low, high = max(below, key=lambda r: r["l0"]), min(above, key=lambda r: r["l0"])
        first, last = low.get(key), high.get(key)
        if low["l0"] == high["l0"] or first is None or last is None:
            return first
        share = math.log(target / low["l0"]) / math.log(high["l0"] / low["l0"])
        if key == "fvu":
            return math.exp((1 - share) * math.log(first) + share * math.log(last))
        return (1 - share) * first + share * last
    near = [run for run in runs if abs(run["l0"] / target - 1) < _NEAR]
    return min(near, key=lambda run: abs(run["l0"] / target - 1)).get(key) if near else None
