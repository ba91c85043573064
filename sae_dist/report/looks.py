"""One look a rung over the whole page: colour by width, marker by kind."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.colors import LinearSegmentedColormap, to_hex

from sae_dist.report.results import RungResult, RunResults

# matplotlib's marker, and the character that stands for it in a legend
_MARKERS = [("o", "●"), ("^", "▲"), ("s", "■"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("*", "★")]
_KINDS = {"jumprelu": "JumpReLU", "topk": "TopK", "batchtopk": "BatchTopK"}
_FORMS = {"transcoder": "transcoder", "skip_transcoder": "skip transcoder"}
_UNKNOWN = "not evaluated"
# Narrow to wide. Hue and lightness both change, so that neighbours differ without colour vision,
# and all have a contrast of 3 and more with the page's ground.
_ON_LIGHT = ["#481a78", "#2b62b8", "#0e8a80", "#b37400"]
_ON_DARK = ["#7050e6", "#4aa3ff", "#4fe0b4", "#ffe08a"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """How a rung is drawn and called.

    `gid` marks it in a drawing, `anchor` is its page's, `family` its kind and form, `place` what it
    reads and reconstructs, `group` the panel it stands in where each kind has its own, `label` what
    its colour means, `tag` tells it from the others of its group and `short` from all other rungs,
    `colour` is an index into the palette.
    """

    gid: str
    anchor: str
    family: str
    place: str
    group: str
    label: str
    tag: str
    short: str
    colour: int
    marker: str


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a legend: a symbol, in a colour of the palette or (None) in the text's."""

    symbol: str
    colour: int | None
    label: str


def family_of(rung: RungResult) -> str:
    """Kind and form in words: `TopK`, `JumpReLU skip transcoder`."""
    return family_label(rung.kind, rung.form)


def family_label(kind: str, form: str) -> str:
    """Kind and form in words, an autoencoder's by its kind alone."""
    return " ".join(filter(None, (_KINDS.get(kind, kind), _FORMS.get(form))))


def place_of(rung: RungResult) -> str:
    """What is reconstructed from what: `resid_post.2`, or `mlp_in.2 → mlp_out.2`."""
    return place_label(rung.site, rung.target)


def place_label(site: str, target: str | None) -> str:
    """Site and target in a word where they are one."""
    return site if target in (None, "same", site) else f"{site} → {target}"


def width_label(num_latents: int) -> str:
    """Powers of two as the field writes them: 16384 is `16K`, 1048576 is `1M`."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if num_latents % size == 0:
            return f"{num_latents // size}{unit}"
    return f"{num_latents:,}"


def assign_looks(results: RunResults) -> dict[str, Look]:
    """The look of each rung by name. Rungs without an evaluation get a colour of their own."""
    rungs = sorted(results.rungs, key=lambda rung: rung.num_latents)
    unknown = [name for name in results.trained_rungs() if name not in {r.name for r in rungs}]
    labels = list(dict.fromkeys([*(width_label(r.num_latents) for r in rungs), *unknown]))
    families = list(dict.fromkeys(family_of(rung) for rung in results.rungs))
    has_many_places = len({place_of(rung) for rung in rungs}) > 1
    shorts = _short_labels(results.rungs)

    looks: dict[str, Look] = {}
    for rung in results.rungs:
        family, label, place = family_of(rung), width_label(rung.num_latents), place_of(rung)
        looks[rung.name] = Look(
            gid=f"rung-{len(looks)}",
            anchor=_anchor(rung.name),
            family=family,
            place=place,
            group=f"{family} · {place}" if has_many_places else family,
            label=label,
            tag=" · ".join(filter(None, (label, _sparsity_label(rung)))),
            short=shorts[rung.name],
            colour=labels.index(label),
            marker=_MARKERS[families.index(family) % len(_MARKERS)][0],
        )
    for name in unknown:
        looks[name] = Look(
            gid=f"rung-{len(looks)}",
            anchor="",
            family=_UNKNOWN,
            place="",
            group=_UNKNOWN,
            label=name,
            tag=name,
            short=name,
            colour=labels.index(name),
            marker="o",
        )
    return looks


def told_apart(looks: list[Look]) -> list[str]:
    """Rungs of one group by their widths, where these differ, otherwise by their tags."""
    labels = [look.label for look in looks]
    return labels if len(set(labels)) == len(labels) else [look.tag for look in looks]


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by key, both in the order of their first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def legend_of_colours(looks: Iterable[Look]) -> list[LegendEntry]:
    """One entry a width (or rung without an evaluation), narrow ones first."""
    by_colour = {look.colour: look.label for look in looks}
    return [LegendEntry("━", colour, by_colour[colour]) for colour in sorted(by_colour)]


def legend_of_markers(looks: Iterable[Look]) -> list[LegendEntry]:
    """One entry a kind of coder."""
    symbols = dict(_MARKERS)
    by_family = {look.family: look.marker for look in looks if look.family != _UNKNOWN}
    return [LegendEntry(symbols[marker], None, family) for family, marker in by_family.items()]


def palette(num_colours: int, dark: bool) -> list[str]:
    """Colours from narrow to wide, that read on a light or on a dark ground."""
    colours = LinearSegmentedColormap.from_list("widths", _ON_DARK if dark else _ON_LIGHT)
    return [to_hex(colours(index / max(num_colours - 1, 1))) for index in range(num_colours)]


def _anchor(name: str) -> str:
    return "rung-" + re.sub(r"[^\w.+-]", "-", name)


def _short_labels(rungs: list[RungResult]) -> dict[str, str]:
    """Kind and width; then k or L0, then the place, while these do not tell all rungs apart."""
    parts: list[Callable[[RungResult], str]] = [
        lambda rung: f"{family_of(rung)} {width_label(rung.num_latents)}",
        lambda rung: _sparsity_label(rung),
        place_of,
    ]
    labels = {rung.name: "" for rung in rungs}
    for part in parts:
        counts = Counter(labels.values())
        for rung in rungs:
            if not labels[rung.name] or counts[labels[rung.name]] > 1:
                labels[rung.name] = f"{labels[rung.name]} {part(rung)}".strip()
    counts = Counter(labels.values())
    return {name: label if counts[label] == 1 else name for name, label in labels.items()}


def _sparsity_label(rung: RungResult) -> str:
    if rung.k is not None:
        return f"k {rung.k}"
    l0 = rung.number("l0")
    return "" if l0 is None else f"L0 {l0:.3g}"
