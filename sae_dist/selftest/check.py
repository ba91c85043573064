"""A check: a name, a promise, and a function that every rank calls and that says what it found."""

import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from sae_dist.common.log import log_info, progress, quiet
from sae_dist.parallel import World

_Value = TypeVar("_Value")
_BAR = "selftest {n_fmt}/{total_fmt} |{bar:17}| {elapsed}{postfix}"
_COLUMNS = {"check": 17, "expected": 29, "found": 36, "seconds": 7, "ok": 3}  # 100 with 4 gaps


class Found(NamedTuple):
    """What a check found, in words, and whether this is what was promised."""

    text: str
    ok: bool


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
    is_terminal = _columns() > 0
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
            text, seconds = place.first(lambda f=found, s=start: (f.text, time.monotonic() - s))
            ok = all(place.together(lambda f=found: f.ok))
            results.append(Result(check.name, check.promise, text, round(seconds, 2), ok))
    return results


def _columns() -> int:
    """How wide the terminal is that errors go to; 0 for a file, and where nobody knows."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 0


def table(results: Sequence[Result]) -> str:
    """The results as lines of at most 100 columns."""
    rows = [list(_COLUMNS)] + [
        [r.check, r.expected, r.found, f"{r.seconds:.1f}", "yes" if r.ok else "NO"] for r in results
    ]
    lines = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, width) or [""]
            for cell, width in zip(row, _COLUMNS.values(), strict=True)
        ]
        for i in range(max(len(cell) for cell in cells)):
            parts = (
                (cell[i] if i < len(cell) else "").ljust(width)
                for cell, width in zip(cells, _COLUMNS.values(), strict=True)
            )
            lines.append("  ".join(parts).rstrip())
    lines.insert(1, "─" * (sum(_COLUMNS.values()) + 2 * (len(_COLUMNS) - 1)))
    return "\n".join(lines)
