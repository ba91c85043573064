"""When a published effect counts as found."""

import statistics
from collections.abc import Callable, Iterable, Sequence
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
    one_seed = "one seed"


@dataclass(frozen=True, slots=True)
class Measured:
    """One effect over seeds, larger the more it is as published.

    `deviation` is the standard deviation (n - 1 below); None of one seed. `bound` is what must be
    exceeded.
    """

    label: str
    mean: float
    deviation: float | None
    seeds: int
    bound: float
    verdict: Verdict

    @property
    def is_as_published(self) -> bool:
        """Whether the mean is."""
        return self.mean > self.bound


def measured(label: str, values: Sequence[float], bound: float = 0.0) -> Measured:
    """An effect that has so many values, one a seed.

    It holds if every seed's value lies above the bound, and their mean by more than one standard
    deviation; likewise below it is the opposite. One seed has no verdict.
    """
    mean = statistics.fmean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    if deviation is None:
        verdict = Verdict.one_seed
    elif abs(mean - bound) <= deviation or min(values) <= bound <= max(values):
        verdict = Verdict.unclear
    else:
        verdict = Verdict.holds if mean > bound else Verdict.opposite
    return Measured(label, mean, deviation, len(values), bound, verdict)


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
        return [measured(label, found, self.bound) for label, found in values.items()]


def summarise(effects: Sequence[Measured]) -> str:
    """The verdict on a claim: what its effects say together; of one seed, which way they point."""
    if not effects:
        return "not measured"
    counts = {verdict: sum(e.verdict is verdict for e in effects) for verdict in Verdict}
    if counts[Verdict.one_seed] == len(effects):
        alike = sum(effect.is_as_published for effect in effects)
        return f"as published in {alike} of {len(effects)} (one seed, no verdict)"
    for verdict in (Verdict.holds, Verdict.unclear):
        if counts[verdict] == len(effects):
            return verdict.value
    others = [f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != Verdict.holds]
    start = f"holds in {counts[Verdict.holds]} of {len(effects)}"
    if not counts[Verdict.holds]:
        start = "does not hold"
    return f"{start} ({', '.join(others)})"
