"""Named figures: what a benchmark yields, the file they are kept in, and the README's table."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results", FOLDER / "README.md"
_BEGIN, _END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_HEAD = "what | figure | floor | × floor | best other | × better | target"


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured, in words.
        value: in `unit`; a unit with `/s` is a rate, of which more is better; else less is.
        floor: the best that the machine gave to something simpler, in the same unit.
        others: the same job done by others, in the same unit.
        target: what it is to be, in words.
        more: what explains it, for the file alone.
    """

    name: str
    value: float
    unit: str
    floor: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    target: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return "/s" in self.unit

    @property
    def times_floor(self) -> float | None:
        """How many times the floor it takes; for a rate, how many times as fast the floor is."""
        if not self.floor:
            return None
        return self.floor / self.value if self.is_rate else self.value / self.floor

    @property
    def best_other(self) -> str | None:
        """Who among the others does it best."""
        choose: Callable[..., str] = max if self.is_rate else min
        return choose(self.others, key=self.others.__getitem__) if self.others else None

    @property
    def times_better(self) -> float | None:
        """How many times better than the best other; below 1 where that one is better."""
        if self.best_other is None:
            return None
        other = self.others[self.best_other]
        return self.value / other if self.is_rate else other / self.value

    def cells(self) -> list[str]:
        """Its row of the table."""
        best = self.best_other
        return [
            self.name,
            f"{number(self.value)} {self.unit}".strip(),
            number(self.floor),
            number(self.times_floor),
            "" if best is None else f"{best}, {number(self.others[best])}",
            number(self.times_better),
            self.target,
        ]


@dataclass(frozen=True)
class LeftOut:
    """What gave no figure, and why."""

    name: str
    why: str


def number(value: float | None) -> str:
    """Three digits, or all before the point; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass
class Results:
    """The figures of one benchmark on one machine: a file of `results/`."""

    benchmark: str
    where: dict[str, Any]
    options: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    drawings: list[str] = field(default_factory=list)

    def add(self, found: Figure | LeftOut) -> None:
        """Note one, in place of what it was before."""
        self.left_out.pop(found.name, None)
        names = [figure.name for figure in self.figures]
        if isinstance(found, LeftOut):
            self.left_out[found.name] = found.why
        elif found.name in names:
            self.figures[names.index(found.name)] = found
        else:
            self.figures.append(found)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n")


def read_results(path: Path) -> Results:
    """What `Results.write` wrote."""
    found = json.loads(path.read_text())
    return Results(**found | {"figures": [Figure(**figure) for figure in found["figures"]]})


def section(results: Results) -> list[list[str]]:
    """Rows of the table: one that names the benchmark, one a figure; none of what is drawn, or has
    a table of its own.
    """
    rows = [] if results.drawings else [figure.cells() for figure in results.figures]
    empty = [""] * (_HEAD.count("|"))
    return [[f"**{results.benchmark}**", *empty], *rows] if rows else []


def notes(results: Results) -> str:
    """Where the figures are from, what was left out, and the drawings."""
    where = results.where
    parts = [where["date"], where["processor"] or "any processor", ", ".join(where["units"])]
    parts += [where["gpu"], f"{where['threads']} threads" if where["threads"] else ""]
    parts += [f"commit {where['commit']}", *(f"{n} {v}" for n, v in where["versions"].items())]
    lines = [f"- **{results.benchmark}**: {'; '.join(filter(None, parts))}."]
    lines += [f"  - left out: {name}: {why}" for name, why in results.left_out.items()]
    for name in results.drawings:
        is_picture = name.endswith(".svg")
        lines.append(f"\n  {'!' if is_picture else ''}[{Path(name).stem}](results/{name})")
    return "\n".join(lines)


def tables(all_results: Sequence[Results]) -> str:
    """The one table, and what is to be known of its figures."""
    rows = [row for results in all_results for row in section(results)]
    return f"{markdown(_HEAD, rows)}\n" + "\n".join(map(notes, all_results)) + "\n"


def markdown(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `head` has its columns between bars."""
    lines = [f"| {head} |", "|---|" + "--:|" * head.count("|")]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"


def with_results(readme: str, folder: Path = RESULTS) -> str:
    """The README with the table of all results in its place."""
    before, _, rest = readme.partition(_BEGIN)
    found = [read_results(path) for path in sorted(folder.glob("*.json"))]
    found.sort(key=lambda results: [*BENCHMARKS, results.benchmark].index(results.benchmark))
    return f"{before}{_BEGIN}\n{tables(found)}\n{_END}{rest.partition(_END)[2]}"
