"""A check: a name, a promise, and a function that every rank calls and that says what it found."""

import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from sae_dist.common.log import log_info, progress, quiet
from sae_dist.parallel import World

_Value = TypeVar("_Value")
_BAR = "selftest {n_fmt}/{total_fmt} |{bar:17}| {elapsed}{postfix}"
_COLUMNS = {"check": 17, "expected": 29, "found": 36, "seconds": 7, "ok": 3}  # 100 with 4 gaps


class Found(NamedTuple):
    """What a check found, in words, and whether this is what was promised.

    `measured` are figures that `MachineConfig` has, too, by their keys there.
    """

    text: str
    ok: bool
    measured: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `run` is called by all ranks together."""

    name: str
    promise: str
    run: Callable[["Place"], Found]


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table."""

    check: str
    expected: str
    found: str
    seconds: float
    ok: bool
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where checks are made: a fresh folder that all ranks see, and the ranks."""

    folder: Path
    world: World

    def together(self, step: Callable[..., _Value], *args: Any) -> list[_Value]:
        """Every rank's `step(*args)`, by rank, on all ranks; a failure is raised on all."""
        try:
            mine: tuple[str | None, Any] = (None, step(*args))
        except Exception as error:
            mine = (f"{type(error).__name__}: {error}", None)
        everyone: list[Any] = [None] * self.world.size
        dist.all_gather_object(everyone, mine)
        for rank, (failure, _) in enumerate(everyone):
            if failure is not None:
                raise RuntimeError(f"rank {rank}: {failure}")
        return [value for _, value in everyone]

    def first(self, step: Callable[..., _Value], *args: Any) -> _Value:
        """Rank 0's `step(*args)`, on all ranks."""
        return self.together(lambda: step(*args) if self.world.rank == 0 else None)[0]  # type: ignore[return-value]


def perform(checks: Sequence[Check], place: Place) -> list[Result]:
    """Make all checks, one after the other; the same results on all ranks.

    A terminal shows one bar that names the check and goes in the end, a log file a line for each.
    What the commands and parts under test would say is left out.
    """
    results = []
    is_terminal = sys.stderr.isatty()
    with progress(checks, shown=is_terminal, leave=False, bar_format=_BAR) as bar:
        for number, check in enumerate(bar, 1):
            bar.set_postfix_str(check.name)
            if not is_terminal:
                log_info(f"check {number} of {len(checks)}: {check.name}")
            start = time.monotonic()
            try:
                with quiet():
                    found = check.run(place)
            except Exception as error:  # whatever it is, it is what was found
                found = Found(" ".join(str(error).split()) or type(error).__name__, False)
            # A rank may have failed between two of its meetings: what all agree on is the first's.
            mine = found.text, round(time.monotonic() - start, 2), dict(found.measured)
            text, seconds, measured = place.first(lambda m=mine: m)
            ok = all(place.together(lambda f=found: f.ok))
            results.append(Result(check.name, check.promise, text, seconds, ok, measured))
    return results


def table(results: Sequence[Result]) -> str:
    """The results as lines of at most 100 columns."""
    rows = [list(_COLUMNS)] + [
        [r.check, r.expected, r.found, f"{r.seconds:.1f}", "yes" if r.ok else "NO"] for r in results
    ]
    widths, lines = _COLUMNS.values(), []
    for row in rows:
        wrapped = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            cells = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
