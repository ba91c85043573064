"""Tables of records, a column a figure, that can be sorted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_dist.common.declare import Figure, Write
from sae_dist.report.numbers import number, written
from sae_dist.report.results import Record, at, has
from sae_dist.report.styles import Style, grouped


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` is sorted by, `text` is shown; it may lead to a rung's page, in its style."""

    figure: Figure
    value: Any
    text: str
    style: Style | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under the figures they are of."""

    title: str
    caption: str
    source: str
    figures: list[Figure]
    rows: list[list[Cell]]

    @property
    def main(self) -> set[str]:
        """Keys of the columns that narrow screens show: the first, and three others."""
        others = sorted(self.figures[1:], key=lambda figure: not figure.is_main)
        return {self.figures[0].key, *(figure.key for figure in others[:3])}


def column(figure: Figure, records: Sequence[Record], styles: Mapping[str, Style]) -> list[Cell]:
    """One figure of each record."""
    values = [at(record, figure.key) for record in records]
    texts = written(values, figure.write)
    if figure.error:
        errors = [at(record, figure.error) for record in records]
        texts = [
            text if error is None else f"{text} ± {number(error)}"
            for text, error in zip(texts, errors, strict=True)
        ]
    return [
        Cell(figure, value, text, styles.get(str(value)) if figure.write is Write.RUNG else None)
        for value, text in zip(values, texts, strict=True)
    ]


def tables(
    title: str,
    figures: Sequence[Figure],
    records: Sequence[Record],
    styles: Mapping[str, Style],
    *,
    caption: str = "",
    source: str = "",
    table_by: str = "",
) -> list[Table]:
    """The table of these records (or one for each value at `table_by`), without the columns in
    which none has anything to tell; without any figure but the names there is none.
    """
    made = []
    for value, own in grouped(records, lambda record: at(record, table_by or "")).items():
        filled = [figure for figure in figures if figure.heading and _is_filled(figure, own)]
        if all(figure.write in (Write.RUNG, Write.TEXT) for figure in filled):
            continue
        cells = [column(figure, own, styles) for figure in filled]
        rows = [list(row) for row in zip(*cells, strict=True)]
        made.append(Table(value if table_by else title, caption, source, filled, rows))
    return made


def _is_filled(figure: Figure, records: Sequence[Record]) -> bool:
    """Whether any record has it. What was measured is shown even where it is not defined."""
    if figure.write in (Write.NUMBER, Write.PERCENT):
        return any(has(record, figure.key) for record in records)
    return any(at(record, figure.key) is not None for record in records)
