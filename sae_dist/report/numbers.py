"""Numbers as text: the values of a column together, so that their decimal points stand in line."""

import math
from collections.abc import Sequence
from typing import Any

from sae_dist.common.declare import Write

_MISSING, _MINUS, _THIN_SPACE = "–", "−", "\N{NARROW NO-BREAK SPACE}"
_MOST_DECIMALS, _MOST = 6, 1e9


def written(values: Sequence[Any], how: Write) -> list[str]:
    """The values of one column as text; a dash for None.

    Numbers have as many decimals as show three digits of the least and four of the greatest of
    them, and of a billion and more the exponent.
    """
    sizes = [abs(value) for value in values if value] if how is Write.NUMBER else []
    decimals = max(_decimals(min(sizes, default=1.0), 3), _decimals(max(sizes, default=1.0), 4))
    texts = [_MISSING if value is None else _one(value, how, decimals) for value in values]
    return texts if how in (Write.TEXT, Write.RUNG) else [t.replace("-", _MINUS) for t in texts]


def _one(value: Any, how: Write, decimals: int) -> str:
    match how:
        case Write.NUMBER:
            return _fixed(value, decimals)
        case Write.PERCENT:
            return f"{100 * value:.2f}{_THIN_SPACE}%"
        case Write.COUNT:
            return f"{value:,}"
        case Write.SETTING:
            return f"{value:g}"
    return str(value)


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
