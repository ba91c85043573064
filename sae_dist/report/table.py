"""Tables that can be sorted, and the facts above them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sae_dist.report.measures import Measure
from sae_dist.report.numbers import Value, Write, counts, numbers, texts
from sae_dist.report.results import RungResult, at
from sae_dist.report.styles import Style, place_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` is sorted by, `text` is shown; it may lead to a rung's page, in its look."""

    value: Value
    text: str
    key: str = ""
    look: Style | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a column: what stands there, and what it means."""

    text: str
    explained: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; each row begins with what it is about."""

    title: str
    caption: str
    headings: list[Heading]
    rows: list[list[Cell]]
    source: str = ""

    @property
    def legend(self) -> list[Heading]:
        """The headings that need a word."""
        return [heading for heading in self.headings if heading.explained]


@dataclass(frozen=True)
class Column(Generic[T]):
    """How a column is made of what the rows are about. `key` marks its cells on the page, and
    `is_there` says of which rows there is anything to tell, if only that it is not defined.
    """

    heading: str
    explained: str
    of: Callable[[T], Value]
    write: Write = texts
    look: Callable[[T], Style | None] = field(default=lambda _: None)
    key: str = ""
    is_there: Callable[[T], bool] | None = None

    def is_empty(self, items: Sequence[T]) -> bool:
        """Whether it has nothing to tell of any of them."""
        is_there = self.is_there or (lambda item: self.of(item) is not None)
        return not any(map(is_there, items))

    def cells(self, items: Sequence[T]) -> list[Cell]:
        """The column, one cell an item."""
        values = [self.of(item) for item in items]
        written = self.write(values)
        return [
            Cell(value, text, self.key, self.look(item))
            for item, value, text in zip(items, values, written, strict=True)
        ]


def table(
    title: str, caption: str, columns: Sequence[Column[T]], items: Sequence[T], source: str = ""
) -> list[Table]:
    """The table of these items, without the columns in which none has anything. No items: none."""
    filled = [column for column in columns if not column.is_empty(items)]
    made = [column.cells(items) for column in filled]
    headings = [Heading(c.heading, c.explained, c.write is texts) for c in filled]
    rows = [list(row) for row in zip(*made, strict=True)]
    return [Table(title, caption, headings, rows, source)] if rows else []


def rung_table(
    title: str,
    caption: str,
    measures: list[Measure],
    rungs: list[RungResult],
    looks: dict[str, Style],
    with_kind: bool = False,
) -> list[Table]:
    """These measures of each rung, which leads to its page."""
    first = Column[RungResult](
        "rung", "name of the coder’s folder", lambda r: r.name, look=lambda r: looks[r.name]
    )
    kinds = [
        Column[RungResult]("kind", "how latents are selected", lambda r: looks[r.name].family),
        Column[RungResult]("site", "where in the language model", place_of),
        Column[RungResult]("latents", "width of the coder", lambda r: r.num_latents, counts),
        Column[RungResult]("k", "active latents asked for", lambda r: r.k, counts),
    ]
    columns = [first, *(kinds if with_kind else []), *map(_column, measures)]
    if not any(m.is_taken(rung) for m in measures for rung in rungs):
        return []
    return table(title, caption, columns, rungs)


def plain_column(
    heading: str, explained: str, *keys: str, write: Write = numbers
) -> Column[dict[str, Any]]:
    """What lies at `keys` of a dict."""
    return Column(heading, explained, lambda item: at(item, *keys), write, key="/".join(keys))


def linked_column(
    heading: str, explained: str, key: str, looks: dict[str, Style]
) -> Column[dict[str, Any]]:
    """The name of a rung, which leads to its page where it has one."""
    return Column(heading, explained, lambda item: at(item, key), look=lambda i: looks.get(i[key]))


def _column(measure: Measure) -> Column[RungResult]:
    key = "/".join(measure.keys)
    about = measure.heading, measure.explained, measure.of, measure.write
    return Column(*about, key=key, is_there=measure.is_taken)
