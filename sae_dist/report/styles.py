"""One style a rung over the whole page: what varies is its colour, its line and its mark."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from sae_dist.report.results import Record, RunResults, width_label

# Vega's symbol, and the character that stands for it in a legend
MARKERS = {
    "circle": "●",
    "triangle-up": "▲",
    "square": "■",
    "diamond": "◆",
    "triangle-down": "▼",
    "cross": "✚",
}
DASHES = ("", "8 3", "2 2.4", "12 3 2 3", "4 2", "16 4")  # of SVG
_UNKNOWN = "not evaluated"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a rung is drawn and called.

    `anchor` is its page's (none: it has no page), `family` its kind and form, `group` where it
    stands in the contents, `tag` tells it from others there, `short` from all others. `colour` is
    an index into the palette, which `colour_label` explains, `dash` one into DASHES likewise.
    """

    rung: str
    anchor: str = ""
    family: str = ""
    group: str = _UNKNOWN
    tag: str
    short: str
    colour: int
    colour_label: str
    dash: int = 0
    dash_label: str = ""
    marker: str = "circle"

    @property
    def drawn(self) -> dict[str, Any]:
        """For the page's script."""
        return {
            "colour": f"var(--series-{self.colour})",
            "dash": [float(length) for length in DASHES[self.dash].split()] or [1, 0],
            "marker": self.marker,
            "anchor": self.anchor,
        }


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a legend: a symbol in a colour of the palette (None: the text's), or dashes."""

    symbol: str
    colour: int | None
    label: str
    dashes: str = ""


def assign_styles(results: RunResults) -> dict[str, Style]:
    """The style of each rung by name. Rungs without an evaluation get a colour of their own.

    Colour is width, and the line what else tells rungs of a width apart. Where there is one width,
    or more others than lines, they change places.
    """
    records = results.rungs
    names = [record["rung"] for record in records]
    variants = _variants(records)
    ranks = _ranks(records, variants)
    widths = sorted({record["num_latents"] for record in records})
    by_variant = max(ranks.values(), default=0) >= (1 if len(widths) == 1 else len(DASHES))
    families = list(dict.fromkeys(record["family"] for record in records))
    shorts = _short_labels(records, variants)
    styles = {}
    for record in records:
        name, label = record["rung"], width_label(record["num_latents"])
        by_width = widths.index(record["num_latents"]), label
        by_rank = ranks[name], variants[name]
        colour, dash = (by_rank, by_width) if by_variant else (by_width, by_rank)
        styles[name] = Style(
            rung=name,
            anchor="rung-" + re.sub(r"[^\w.+-]", "-", name),
            family=record["family"],
            group=record["family_and_place"],
            tag=" · ".join(filter(None, (label, variants[name]))),
            short=shorts[name],
            colour=colour[0],
            colour_label=colour[1],
            dash=dash[0] % len(DASHES),
            dash_label=dash[1],
            marker=list(MARKERS)[families.index(record["family"]) % len(MARKERS)],
        )
    start = 1 + max((style.colour for style in styles.values()), default=-1)
    unknown = [name for name in results.trained_rungs() if name not in names]
    for i, name in enumerate(unknown, start):
        styles[name] = Style(rung=name, tag=name, short=name, colour=i, colour_label=name)
    return styles


def legend(styles: Iterable[Style]) -> list[LegendEntry]:
    """What colours, lines and marks stand for; of lines and marks where there are several."""
    own = list(styles)
    evaluated = [style for style in own if style.anchor]
    dashes = grouped(evaluated, lambda style: style.dash)
    markers = grouped(evaluated, lambda style: style.marker)
    entries = [
        LegendEntry("━", colour, _joined(style.colour_label for style in same))
        for colour, same in sorted(grouped(own, lambda style: style.colour).items())
    ]
    if len(dashes) > 1:
        entries += [
            LegendEntry("", None, _joined(s.dash_label for s in same), DASHES[dash] or "none")
            for dash, same in sorted(dashes.items())
        ]
    if len(markers) > 1:
        entries += [LegendEntry(MARKERS[m], None, same[0].family) for m, same in markers.items()]
    return entries


def grouped(items: Iterable[T], key: Callable[[T], object]) -> dict:
    """Items by key, both in the order of their first appearance."""
    groups: dict[object, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _joined(labels: Iterable[str], most: int = 4) -> str:
    distinct = [label for label in dict.fromkeys(labels) if label]
    return ", ".join(distinct[:most]) + (", …" if len(distinct) > most else "")


def _alike(record: Record) -> tuple[str, int]:
    """What rungs have in common that panel, mark and width do not tell apart."""
    return record["family_and_place"], record["num_latents"]


def _variants(records: list[Record]) -> dict[str, str]:
    """Of each rung k, or its L0; where these are those of another that is otherwise alike, also
    what else of its name others of them do not have.
    """
    variants = {}
    for own in grouped(records, _alike).values():
        labels = Counter(map(_sparsity_label, own))
        parts = {record["rung"]: record["rung"].split("-") for record in own}
        for record in own:
            name, label = record["rung"], _sparsity_label(record)
            if labels[label] > 1:
                others = [parts[other] for other in parts if other != name]
                new = [
                    part
                    for part in parts[name]
                    if part != label.replace(" ", "") and any(part not in other for other in others)
                ]
                label = " ".join(filter(None, (label, *new)))
            variants[name] = label
    return variants


def _ranks(records: list[Record], variants: dict[str, str]) -> dict[str, int]:
    """The place of each rung's variant: equal variants have equal places, and L0s, which all differ
    a little, their order among rungs that are otherwise alike.
    """
    ranks: dict[str, int] = {}
    for own in grouped(records, _alike).values():
        ordered = sorted(own, key=lambda r: (r.get("target_l0") or 0, r.get("l0") or 0))
        ranks |= {record["rung"]: place for place, record in enumerate(ordered)}
    if any(ranks.values()):
        with_k = sorted((r for r in records if r.get("k")), key=lambda r: int(r["k"]))
        places = list(dict.fromkeys(variants[record["rung"]] for record in with_k))
        ranks |= {r["rung"]: places.index(variants[r["rung"]]) for r in with_k}
    return ranks


def _short_labels(records: list[Record], variants: dict[str, str]) -> dict[str, str]:
    """Kind and width; then the variant, then the place, while these do not tell all apart."""
    parts: list[Callable[[Record], str]] = [
        lambda record: f"{record['family']} {width_label(record['num_latents'])}",
        lambda record: variants[record["rung"]],
        lambda record: str(record["place"]),
    ]
    labels = {record["rung"]: "" for record in records}
    for part in parts:
        counts = Counter(labels.values())
        for record in records:
            name = record["rung"]
            if not labels[name] or counts[labels[name]] > 1:
                labels[name] = f"{labels[name]} {part(record)}".strip()
    counts = Counter(labels.values())
    return {name: label if counts[label] == 1 else name for name, label in labels.items()}


def _sparsity_label(record: Record) -> str:
    if record.get("k") is not None:
        return f"k {record['k']}"
    if record.get("target_l0") is not None:
        return f"L0 aim {record['target_l0']:g}"
    return "" if record.get("l0") is None else f"L0 {record['l0']:.3g}"
