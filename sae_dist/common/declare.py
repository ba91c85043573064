"""How a measure says what it has found: its figures, plots, and part of the report.

Plain data. Whoever measures declares; the report, the tables of the documentation and the helps of
commands are made of it. A `key` is a path in a record of results: `uniformity/r_l0` is what lies at
`r_l0` in what lies at `uniformity`.
"""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum


class Write(StrEnum):
    """How a figure is written."""

    NUMBER = "number"
    PERCENT = "percent"  # of a share
    COUNT = "count"
    SETTING = "setting"  # with the digits that it was given
    TEXT = "text"
    RUNG = "rung"  # the name of a coder, which leads to its page


class Mark(StrEnum):
    """What a plot draws of a record, by what lies at its keys."""

    POINTS = "points"  # scalars x and y: a point a record
    LINE = "line"  # lists: x (or, without a key, the index; or edges, one more than y) and y
    STEPS = "steps"  # a histogram: x are edges, y counts, drawn as shares
    SPANS = "spans"  # y is {"mean": …, "quantiles": {"0.1": …, … "0.9": …}}, a row a record
    BARS = "bars"  # a scalar y, a row a record
    PATH = "path"  # lists in their order: x and y


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A part of the report; `lead` says in a sentence what it answers."""

    key: str
    title: str
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value of a record: the `heading` of its column, and what it means, with its formula.

    Without a heading it has no column. `group` is the title of its table, if not its measure's.
    `source` is the paper that defines it, `error` the key of
    its standard error; what `is_main` stands in the table of all coders, too, and is shown on
    narrow screens.
    """

    key: str
    heading: str
    definition: str = ""
    unit: str = ""
    source: str = ""
    write: Write = Write.NUMBER
    error: str = ""
    is_main: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows. It is logarithmic, if `log` does not say otherwise, where all values are
    positive and span more than a factor of 5; `zero` is to be on it; `scale` multiplies the values;
    `to` is the key of another end, to which a line leads from each point.
    """

    label: str
    key: str = ""
    log: bool | None = None
    zero: bool = False
    scale: float = 1.0
    to: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of some records, each drawn in the style of the coder whose name is at `rung`.

    Attributes:
        key: of the plot, unique in a report.
        each: key of a list whose items, each with what the record says, are drawn in its place.
        instead: of x, where the values at x differ by less than a tenth.
        panel: there is a panel for each value at this key: `place` (site and target),
            `family_and_place` (of the kind, too), `title` (of a law), or any key of the records.
        join: whether a line joins points of one kind and place: over `l0` of one width, over
            `num_latents` of one k, over other x of any.
        fitted: key of values of y that a line joins, drawn open beside the points.
        rest: of a histogram's total, the key of what is in no bin.
        note: key of a figure that is told below each panel, after `note_label`.
        first: of a path, the key of how many of its points a line joins; the rest are dots.
        hollow: a key and its value where points and bars are drawn hollow.
        diagonal: whether a line from (0, 0) to (1, 1) is drawn to compare with.
        by_rung: whether it is also drawn for each coder alone, on its page.
        topic: where it stands in the report, if not with its measure's figures.
    """

    key: str
    mark: Mark
    title: str
    caption: str
    _: KW_ONLY
    source: str = ""
    x: Axis = Axis(label="")
    y: Axis
    each: str = ""
    instead: Axis | None = None
    panel: str = ""
    join: bool = False
    fitted: str = ""
    rest: str = ""
    note: str = ""
    note_label: str = ""
    note_write: Write = Write.NUMBER
    first: str = ""
    hollow: tuple[str, str] | None = None
    diagonal: bool = False
    rung: str = "rung"
    by_rung: bool = False
    topic: Topic | None = None
