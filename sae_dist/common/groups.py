"""Rungs that differ only in width and sparsity, those that are compared with each other, and those
that are held at once.
"""

from collections.abc import Callable, Iterable
from itertools import groupby, pairwise
from typing import Any, TypeVar

T = TypeVar("T")
Rungs = dict[str, dict[str, Any]]
"""By name each coder's figures, merged from all its measures."""

_ALIKE = ("kind", "form", "site", "target")


def groups(rungs: Rungs) -> list[tuple[dict[str, str], Rungs]]:
    """Each kind, form, site and target there is, with its rungs from narrow to wide."""

    def by_width(rung: tuple[str, dict[str, Any]]) -> tuple[int, float, str]:
        return rung[1]["num_latents"], rung[1].get("l0") or 0.0, rung[0]

    found: dict[tuple[str, ...], Rungs] = {}
    for name, figures in sorted(rungs.items(), key=by_width):
        found.setdefault(tuple(figures[key] for key in _ALIKE), {})[name] = figures
    return [(dict(zip(_ALIKE, key, strict=True)), own) for key, own in sorted(found.items())]


def neighbours(rungs: Rungs) -> list[tuple[str, str]]:
    """(smaller, larger): each rung with that of its group's next lower width whose L0 is nearest.

    Rungs without an L0 have no neighbours.
    """
    pairs = []
    for _, members in groups({n: r for n, r in rungs.items() if r.get("l0") is not None}):
        by_width: dict[int, list[str]] = {}
        for name, figures in members.items():
            by_width.setdefault(figures["num_latents"], []).append(name)
        for smaller, larger in pairwise(by_width.values()):
            for name in larger:
                l0 = rungs[name]["l0"]
                pairs.append((min(smaller, key=lambda n: abs(rungs[n]["l0"] - l0)), name))
    return pairs


def held_together(coders: Iterable[T], key: Callable[[T], int]) -> list[list[T]]:
    """All coders from narrow to wide in few groups, those of one width in one.

    No group has more latents than the width that has most: a ladder of doubling widths has two.
    """
    widths = [list(own) for _, own in groupby(sorted(coders, key=key), key=key)]
    most = max((sum(map(key, own)) for own in widths), default=0)
    found: list[list[T]] = []
    for own in widths:
        if found and sum(map(key, found[-1] + own)) <= most:
            found[-1] += own
        else:
            found.append(own)
    return found
