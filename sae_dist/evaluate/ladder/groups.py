"""Rungs that differ only in width and sparsity."""

from typing import Any

Rungs = dict[str, dict[str, Any]]
"""By name each coder's figures, as `evaluation.json` holds them."""

_ALIKE = ("kind", "form", "site", "target")


def groups(rungs: Rungs) -> list[tuple[dict[str, str], Rungs]]:
    """Each kind, form, site and target there is, with its rungs from narrow to wide."""
    found: dict[tuple[str, ...], Rungs] = {}
    for name, figures in sorted(rungs.items(), key=_by_width):
        found.setdefault(tuple(figures[key] for key in _ALIKE), {})[name] = figures
    return [
        (dict(zip(_ALIKE, key, strict=True)), members) for key, members in sorted(found.items())
    ]


def _by_width(rung: tuple[str, dict[str, Any]]) -> tuple[int, float, str]:
    name, figures = rung
    return figures["num_latents"], figures["l0"], name
