"""When a published effect counts as found."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Evaluation = dict[str, Any]
Effects = dict[str, float]


class Verdict(StrEnum):
    """What the seeds say of one effect."""

    holds = "holds"
    opposite = "opposite"
    unclear = "unclear"


@dataclass(frozen=True, slots=True)
class Measured:
    """One effect, a value a seed, each larger the more it is as published."""

    label: str
    values: tuple[float, ...]
    bound: float = 0.0

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1 below); None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def verdict(self) -> Verdict:
        """It holds if every seed's value lies above the bound, and their mean by more than one
        standard deviation; likewise below it is the opposite. One seed says nothing.
        """
        over = [value - self.bound for value in self.values]
        if self.deviation is None or abs(statistics.fmean(over)) <= self.deviation:
            return Verdict.unclear
        if min(over) > 0:
            return Verdict.holds
        return Verdict.opposite if max(over) < 0 else Verdict.unclear


@dataclass(frozen=True, slots=True)
class Claim:
    """Something published, and how it is looked for in the evaluation of one run.

    Args:
        title: what is claimed, in a few words.
        source: who published it, and where it stands there.
        published: what was found there.
        effect: what is measured here, in words; `unit` is its unit.
        measure: the effects of an evaluation by label, larger the more they are as published.
            Empty where the evaluation lacks what it needs.
        bound: what an effect must exceed.
    """

    title: str
    source: str
    published: str
    effect: str
    unit: str
    measure: Callable[[Evaluation], Effects]
    bound: float = 0.0

    def over(self, evaluations: Iterable[Evaluation]) -> list[Measured]:
        """Each effect over the evaluations of all seeds."""
        values: dict[str, list[float]] = {}
        for evaluation in evaluations:
            for label, value in self.measure(evaluation).items():
                values.setdefault(label, []).append(value)
        return [Measured(label, tuple(found), self.bound) for label, found in values.items()]


def summarise(effects: list[Measured]) -> str:
    """The verdict on a claim: what its effects say together."""
    if not effects:
        return "not measured"
    counts = {verdict: sum(e.verdict is verdict for e in effects) for verdict in Verdict}
    for verdict in (Verdict.holds, Verdict.unclear):
        if counts[verdict] == len(effects):
            return verdict.value
    others = [f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != Verdict.holds]
    start = f"holds in {counts[Verdict.holds]} of {len(effects)}"
    if not counts[Verdict.holds]:
        start = "does not hold"
    return f"{start} ({', '.join(others)})"
