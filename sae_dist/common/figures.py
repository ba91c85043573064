"""Figures that may be undefined, or not finite: as JSON holds them, and as text does."""

import math
from collections.abc import Iterator
from typing import Any


def or_null(figures: Any) -> Any:
    """The same, at any depth of dicts and lists, with None for numbers that JSON does not know."""
    if isinstance(figures, dict):
        return {key: or_null(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [or_null(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def not_finite(figures: Any, place: str = "") -> Iterator[str]:
    """The places, `rung/kl/3`, of those numbers."""
    if isinstance(figures, list | tuple):
        figures = dict(enumerate(figures))
    if isinstance(figures, dict):
        for key, value in figures.items():
            yield from not_finite(value, f"{place}/{key}" if place else str(key))
    elif isinstance(figures, float) and not math.isfinite(figures):
        yield place


def shown(figure: float | None, form: str) -> str:
    """A figure in a format such as `.3f`; "–" where it is undefined."""
    return "–" if figure is None or not math.isfinite(figure) else format(figure, form)
