"""Several runs as one ladder; rungs that differ only in their seed as one, with a spread."""

import json
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from sae_dist.evaluate.measures.forms import Forms
from sae_dist.evaluate.measures.scaling import ScalingLaws

_IDENTITY = (
    *("kind", "form", "site", "target", "num_latents"),
    *("k", "target_l0", "d_in", "d_out"),
)
_ASIDE = {  # what a rung's weights do not depend on, or the seed itself
    *("seed", "run", "runs", "rungs", "resume"),
    *("parallel", "checkpoint", "log", "watch", "max_shard_gib"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedRun:
    """A run's name, the settings it was trained with, and what `read_evaluation` gives of it."""

    name: str
    settings: dict[str, Any]
    evaluation: dict[str, Any]


def compare_runs(runs: list[EvaluatedRun]) -> dict[str, Any]:
    """The contents of `comparison.json`: what one run's evaluation says of its ladder, of all runs.

    Rungs are the same if their names are, and all settings of their runs but the seed. Their
    figures become {mean, std, values}: the mean and the sample standard deviation (None of one)
    of the values, which stand in the order of the rung's `runs`.
    """
    every = {f"{run.name}/{name}": rung for run, name, rung in _rungs(runs)}
    rungs = _same_rungs(runs)
    return {
        "version": 2,
        "runs": [run.name for run in runs],
        "rungs": rungs,
        "pairs": _same_pairs(runs),
        "of_run": {"scaling": ScalingLaws.of(every), "forms": Forms.of(rungs)},
    }


def _rungs(runs: list[EvaluatedRun]) -> list[tuple[EvaluatedRun, str, dict[str, Any]]]:
    return [(run, name, rung) for run in runs for name, rung in run.evaluation["rungs"].items()]


def _same_rungs(runs: list[EvaluatedRun]) -> dict[str, dict[str, Any]]:
    """By name; where runs differ in more than the seed, the first run's name is put before it."""
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for run, name, rung in _rungs(runs):
        found.setdefault((name, _fingerprint(run)), []).append((run.name, rung))
    names = [name for name, _ in found]
    rungs = {}
    for (name, _), members in found.items():
        key = name if names.count(name) == 1 else f"{members[0][0]}/{name}"
        identity = {of: members[0][1].get(of) for of in _IDENTITY}
        figures = _spread([rung for _, rung in members], leave_out=set(_IDENTITY))
        rungs[key] = {"runs": [run for run, _ in members]} | identity | figures
    return rungs


def _same_pairs(runs: list[EvaluatedRun]) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], list[tuple[str, dict[str, Any]]]] = {}
    for run in runs:
        for pair in run.evaluation["pairs"]:
            key = pair["smaller"], pair["larger"], _fingerprint(run)
            found.setdefault(key, []).append((run.name, pair))
    return [
        {"smaller": smaller, "larger": larger, "runs": [run for run, _ in members]}
        | _spread([pair for _, pair in members], leave_out=set())
        for (smaller, larger, _), members in found.items()
    ]


def _fingerprint(run: EvaluatedRun) -> str:
    """What runs have in common that differ only in their seed."""
    settings = {key: value for key, value in run.settings.items() if key not in _ASIDE}
    return json.dumps([settings, run.evaluation["lm"]], sort_keys=True)


def _spread(several: list[dict[str, Any]], leave_out: set[str]) -> dict[str, Any]:
    """The single numbers that all have in the same place, at any depth; lists are left out."""
    found: dict[str, Any] = {}
    for key in several[0]:
        values = [one[key] for one in several if key in one]
        if key in leave_out or len(values) < len(several):
            continue
        if all(isinstance(value, dict) for value in values):
            if inner := _spread(values, set()):
                found[key] = inner
        elif all(_is_number(value) for value in values):
            std = stdev(values) if len(values) > 1 else None
            found[key] = {"mean": fmean(values), "std": std, "values": values}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
