"""One look a rung over the whole page: colour by width, marker by kind."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.colors import LinearSegmentedColormap, to_hex

from sae_dist.coders import kind_named, kind_names
from sae_dist.report.results import RungResult, RunResults

# matplotlib's marker, and the character that stands for it in a legend
_MARKERS = [("o", "●"), ("^", "▲"), ("s", "■"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("*", "★")]
_FORMS = {"transcoder": "transcoder", "skip_transcoder": "skip transcoder"}
_UNKNOWN = "not evaluated"
# Narrow to wide. Hue and lightness both change, so that neighbours differ without colour vision,
# and all have a contrast of 3 and more with the page's ground.
_ON_LIGHT = ["#481a78", "#2b62b8", "#0e8a80", "#b37400"]
_ON_DARK = ["#7050e6", "#4aa3ff", "#4fe0b4", "#ffe08a"]
# matplotlib's lines; of the dashes, in points of a line one point wide
_DASHES: list[tuple[float, ...]] = [(), (4, 1.5), (1, 1.2), (6, 1.5, 1, 1.5), (2, 1), (8, 2)]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Style:
    """How a rung is drawn and called.

    `gid` marks it in a drawing, `anchor` is its page's, `family` its kind and form, `place` what it
    reads and reconstructs, `group` the panel it stands in where each kind has its own, `label` what
    its colour means, `variant` what tells it from others of its kind, place and width, `tag` both,
    `short` tells it from all other rungs, `colour` is an index into the palette, `dash` one into
    the kinds of lines: all are drawn through where no two rungs differ in their variants alone.
    """

    gid: str
    anchor: str
    family: str
    place: str
    group: str
    label: str
    variant: str
    tag: str
    short: str
    colour: int
    dash: int
    marker: str

    @property
    def line(self) -> tuple[int, tuple[float, ...] | None]:
        """How matplotlib is to draw its curves."""
        return 0, _DASHES[self.dash] or None


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a legend: a symbol, in a colour of the palette or (None) in the text's; or a line
    with these `dashes`.
    """

    symbol: str
    colour: int | None
    label: str
    dashes: str = ""


def family_of(rung: RungResult) -> str:
    """Kind and form in words: `TopK`, `JumpReLU skip transcoder`."""
    return family_label(rung.kind, rung.form)


def family_label(kind: str, form: str) -> str:
    """Kind and form in words, an autoencoder's by its kind alone."""
    title = kind_named(kind).title if kind in kind_names() else kind  # of a package not here
    return " ".join(filter(None, (title, _FORMS.get(form))))


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


def assign_looks(results: RunResults) -> dict[str, Style]:
    """The look of each rung by name. Rungs without an evaluation get a colour of their own."""
    rungs = sorted(results.rungs, key=lambda rung: rung.num_latents)
    unknown = [name for name in results.trained_rungs() if name not in {r.name for r in rungs}]
    labels = list(dict.fromkeys([*(width_label(r.num_latents) for r in rungs), *unknown]))
    families = list(dict.fromkeys(family_of(rung) for rung in results.rungs))
    has_many_places = len({place_of(rung) for rung in rungs}) > 1
    variants = _variants(results.rungs)
    dashes = _dashes(results.rungs, variants)
    shorts = _short_labels(results.rungs, variants)

    looks: dict[str, Style] = {}
    for rung in results.rungs:
        family, label, place = family_of(rung), width_label(rung.num_latents), place_of(rung)
        looks[rung.name] = Style(
            gid=f"rung-{len(looks)}",
            anchor=_anchor(rung.name),
            family=family,
            place=place,
            group=f"{family} · {place}" if has_many_places else family,
            label=label,
            variant=variants[rung.name],
            tag=" · ".join(filter(None, (label, variants[rung.name]))),
            short=shorts[rung.name],
            colour=labels.index(label),
            dash=dashes[rung.name],
            marker=_MARKERS[families.index(family) % len(_MARKERS)][0],
        )
    for name in unknown:
        looks[name] = Style(
            gid=f"rung-{len(looks)}",
            anchor="",
            family=_UNKNOWN,
            place="",
            group=_UNKNOWN,
            label=name,
            variant="",
            tag=name,
            short=name,
            colour=labels.index(name),
            dash=0,
            marker="o",
        )
    return looks


def told_apart(looks: list[Style]) -> list[str]:
    """Rungs of one group by their widths, where these differ, otherwise by their tags."""
    labels = [look.label for look in looks]
    return labels if len(set(labels)) == len(labels) else [look.tag for look in looks]


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by key, both in the order of their first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def legend_of_colours(looks: Iterable[Style]) -> list[LegendEntry]:
    """One entry a width (or rung without an evaluation), narrow ones first."""
    by_colour = {look.colour: look.label for look in looks}
    return [LegendEntry("━", colour, by_colour[colour]) for colour in sorted(by_colour)]


def legend_of_dashes(looks: Iterable[Style]) -> list[LegendEntry]:
    """One entry a kind of line, if there are several: which variants it stands for."""
    several = [own for own in grouped(looks, lambda k: f"{k.group} {k.label}").values() if own[1:]]
    by_dash = grouped((look for own in several for look in own), lambda look: str(look.dash))
    return [
        LegendEntry(
            "",
            None,
            ", ".join(dict.fromkeys(look.variant for look in by_dash[dash])),
            " ".join(f"{2 * length:g}" for length in _DASHES[int(dash)]) or "none",
        )
        for dash in sorted(by_dash)
    ]


def legend_of_markers(looks: Iterable[Style]) -> list[LegendEntry]:
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


def _alike(rung: RungResult) -> str:
    """What rungs have in common that colour, marker and panel do not tell apart."""
    return f"{family_of(rung)} {place_of(rung)} {rung.num_latents}"


def _variants(rungs: list[RungResult]) -> dict[str, str]:
    """Of each rung k, or its L0; where these are those of another that is otherwise alike, also
    what else of its name others of them do not have.
    """
    found = {}
    for own in grouped(rungs, _alike).values():
        labels = Counter(map(_sparsity_label, own))
        parts = {rung.name: rung.name.split("-") for rung in own}
        for rung in own:
            label = _sparsity_label(rung)
            if labels[label] > 1:
                others = [parts[r.name] for r in own if r is not rung]
                said = {label.replace(" ", "")}
                new = [
                    p for p in parts[rung.name] if p not in said and any(p not in o for o in others)
                ]
                label = " ".join(filter(None, (label, *new)))
            found[rung.name] = label
    return found


def _dashes(rungs: list[RungResult], variants: dict[str, str]) -> dict[str, int]:
    """An index of `_DASHES` for each rung: equal k have equal lines."""
    alike = grouped(rungs, _alike).values()
    found = dict.fromkeys(variants, 0)
    if all(len(own) == 1 for own in alike):
        return found
    for own in alike:  # L0s all differ a little: their order says more
        ordered = sorted(own, key=lambda rung: (rung.target_l0 or 0, rung.number("l0") or 0))
        found |= {rung.name: place for place, rung in enumerate(ordered)}
    with_k = sorted((rung for rung in rungs if rung.k is not None), key=lambda rung: rung.k or 0)
    places = list(dict.fromkeys(variants[rung.name] for rung in with_k))
    found |= {rung.name: places.index(variants[rung.name]) for rung in with_k}
    return {name: place % len(_DASHES) for name, place in found.items()}


def _short_labels(rungs: list[RungResult], variants: dict[str, str]) -> dict[str, str]:
    """Kind and width; then the variant, then the place, while these do not tell all apart."""
    parts: list[Callable[[RungResult], str]] = [
        lambda rung: f"{family_of(rung)} {width_label(rung.num_latents)}",
        lambda rung: variants[rung.name],
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
    if rung.target_l0 is not None:
        return f"L0 aim {rung.target_l0:g}"
    l0 = rung.number("l0")
    return "" if l0 is None else f"L0 {l0:.3g}"
