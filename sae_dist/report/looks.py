"""One look a rung over the whole page: colour by width, marker by kind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib import colormaps
from matplotlib.colors import to_hex

from sae_dist.report.results import RungResult, RunResults

# matplotlib's marker, and the character that stands for it in a legend
_MARKERS = [("o", "●"), ("^", "▲"), ("s", "■"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("*", "★")]
_KINDS = {"jumprelu": "JumpReLU", "topk": "TopK", "batchtopk": "BatchTopK"}
_FORMS = {"transcoder": "transcoder", "skip_transcoder": "skip transcoder"}
_UNKNOWN = "not evaluated"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """How a rung is drawn.

    `gid` marks it in a drawing, `family` is its kind and form, `group` the panel it stands in where
    each kind has its own, `label` what its colour means, `colour` an index into the palette.
    """

    gid: str
    family: str
    group: str
    label: str
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
    return " ".join(filter(None, (_KINDS.get(rung.kind, rung.kind), _FORMS.get(rung.form))))


def place_of(rung: RungResult) -> str:
    """What is reconstructed from what: `resid_post.2`, or `mlp_in.2 → mlp_out.2`."""
    return rung.site if rung.site == rung.target else f"{rung.site} → {rung.target}"


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

    looks: dict[str, Look] = {}
    for rung in results.rungs:
        family, label = family_of(rung), width_label(rung.num_latents)
        group = f"{family} · {place_of(rung)}" if has_many_places else family
        marker = _MARKERS[families.index(family) % len(_MARKERS)][0]
        gid = f"rung-{len(looks)}"
        looks[rung.name] = Look(gid, family, group, label, labels.index(label), marker)
    for name in unknown:
        gid = f"rung-{len(looks)}"
        looks[name] = Look(gid, _UNKNOWN, _UNKNOWN, name, labels.index(name), "o")
    return looks


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by key, both in the order of their first appearance."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def legend_of_colours(looks: dict[str, Look]) -> list[LegendEntry]:
    """One entry a width (or rung without an evaluation), narrow ones first."""
    by_colour = {look.colour: look.label for look in looks.values()}
    return [LegendEntry("━", colour, by_colour[colour]) for colour in sorted(by_colour)]


def legend_of_markers(looks: dict[str, Look]) -> list[LegendEntry]:
    """One entry a kind of coder."""
    symbols = dict(_MARKERS)
    by_family = {look.family: look.marker for look in looks.values() if look.family != _UNKNOWN}
    return [LegendEntry(symbols[marker], None, family) for family, marker in by_family.items()]


def palette(num_colours: int, dark: bool) -> list[str]:
    """Colours from viridis, which also reads without colour vision and in grey.

    On a light ground its pale end is left out, on a dark ground its dark end.
    """
    low, high = (0.35, 1.0) if dark else (0.0, 0.74)
    step = (high - low) / max(num_colours - 1, 1)
    places = [low + step * index for index in range(num_colours)]
    return [to_hex(colormaps["viridis"](place)) for place in places]
