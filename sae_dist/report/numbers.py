"""Numbers as text: the values of a column together, so that their decimal points stand in line."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from sae_dist.common.declare import Write

_MISSING, _MINUS, _THIN_SPACE = "–", "−", "\N{NARROW NO-BREAK SPACE}"
_MOST_DECIMALS, _MOST = 6, 1e9


def written(values: Sequence[Any], how: Write) -> list[str]:
    """The values of one column as text; a dash for None.

    Numbers have as many decimals as show three digits of the least and four of the greatest of
    them, and of a billion and more the exponent.
    """
    if how is Write.NUMBER:
        sizes = [abs(value) for value in values if value] or [1.0]
        decimals = max(_decimals(min(sizes), 3), _decimals(max(sizes), 4))
        one: Callable[[Any], str] = lambda value: _fixed(value, decimals)  # noqa: E731
    else:
        one = _WRITERS[how]
    texts = [_MISSING if value is None else one(value) for value in values]
    return texts if how in (Write.TEXT, Write.RUNG) else [t.replace("-", _MINUS) for t in texts]


_WRITERS: dict[Write, Callable[[Any], str]] = {
    Write.PERCENT: lambda share: f"{100 * share:.2f}{_THIN_SPACE}%",
    Write.COUNT: lambda count: f"{count:,}",
    Write.SETTING: lambda value: f"{value:g}",
    Write.TEXT: str,
    Write.RUNG: str,
}


def number(value: float) -> str:
    """A lone number, four digits of it."""
    return written([value], Write.NUMBER)[0]


def duration(seconds: float) -> str:
    """Hours and minutes, or for short times minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _fixed(value: float, decimals: int) -> str:
    if abs(value) >= _MOST:
        return f"{value:.3e}"
    is_lost = 0 < abs(value) < 0.5 * 10**-decimals
    return f"{value:.1e}" if is_lost else f"{value:,.{decimals}f}"


def _decimals(value: float, digits: int) -> int:
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), _MOST_DECIMALS)
