"""Numbers as text: the values of a column together, so that their decimal points stand in line."""

import math
from collections.abc import Callable, Sequence
from typing import Any

Value = str | int | float | None
Write = Callable[[Sequence[Any]], list[str]]
_MISSING, _MINUS, _THIN_SPACE = "–", "−", "\N{NARROW NO-BREAK SPACE}"
_MOST_DECIMALS, _MOST = 6, 1e9


def texts(values: Sequence[Any]) -> list[str]:
    """As they are."""
    return [_MISSING if value is None else str(value) for value in values]


def plainly(values: Sequence[float | None]) -> list[str]:
    """Settings, with the digits they were given: 0.7."""
    return [_MISSING if value is None else _signed(f"{value:g}") for value in values]


def counts(values: Sequence[int | None]) -> list[str]:
    """Integers with their thousands apart: 16,384."""
    return [_MISSING if value is None else f"{value:,}" for value in values]


def numbers(values: Sequence[float | None]) -> list[str]:
    """With as many decimals as show three digits of the least and four of the greatest of them; of
    a billion and more the exponent.
    """
    present = [abs(value) for value in values if value] or [1.0]
    decimals = max(_decimals(min(present), 3), _decimals(max(present), 4))
    return [_MISSING if v is None else _signed(_fixed(v, decimals)) for v in values]


def percents(shares: Sequence[float | None]) -> list[str]:
    """Shares as per cent: 0.0125 is 1.25 %."""
    return [
        _MISSING if share is None else _signed(f"{100 * share:.2f}{_THIN_SPACE}%")
        for share in shares
    ]


def number(value: float) -> str:
    """A lone number, four digits of it."""
    return numbers([value])[0]


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


def _signed(text: str) -> str:
    return text.replace("-", _MINUS)
