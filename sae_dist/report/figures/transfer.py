"""Coders of a base model and of its finetune, on what the finetune reads and writes."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from sae_dist.report.figures.figure import GEMMA_SCOPE, Figure, Panel, drawn, rows_panel
from sae_dist.report.numbers import number
from sae_dist.report.results import RunResults, at
from sae_dist.report.styles import LegendEntry, Style, family_label, width_label
from sae_dist.report.svg import ACCENT, draw, scale, series_colour
from sae_dist.report.table import Column, Table, linked_column, plain_column, table

Row = dict[str, Any]
PARTS = ("prompt", "rollout")
_TOKENS = {"prompts": "prompt_tokens", "rollouts": "rollout_tokens"}
LEGEND = [LegendEntry("●", None, "trained on the base"), LegendEntry("○", None, "on the finetune")]
_PLAIN, _RESCALED = ("l0", "fvu"), ("l0_rescaled", "fvu_rescaled")
_SCALED = "on activations scaled to the mean norm of what the coder was trained on"
_FIGURES = [
    (
        "delta_loss",
        "Delta loss on a finetune",
        "Δ loss (nats a token)",
        (
            "How much the finetune’s cross-entropy rises when a coder’s output is spliced into it, "
            "on the user’s prompt and on what the finetune itself wrote in answer."
        ),
        f"{GEMMA_SCOPE}, figs. 8 (rollouts) and 20 (prompts)",
    ),
    (
        "fvu",
        "FVU on a finetune",
        "FVU (fraction of variance)",
        "Fraction of variance unexplained of the finetune’s activations.",
        f"{GEMMA_SCOPE}, figs. 19 (prompts), 21 and 22 (rollouts)",
    ),
]


@dataclass(frozen=True, slots=True)
class _Coder:
    """One that was measured on the finetune; drawn open where it was trained on it, too."""

    name: str
    label: str
    colour: str
    is_open: bool
    figures: Row


def transfer_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """Bars of each coder; and what rescaling the finetune's activations does."""
    coders = _coders(results, looks)
    figures = [
        Figure(title, caption, _bar_panels(key, label, coders), source)
        for key, title, label, caption, source in _FIGURES
    ]
    rescaled = Figure(
        "Activations rescaled to the base’s norm",
        "FVU against L0 of each coder on the finetune’s activations as they are, and (small dot at "
        "the other end) on them scaled to the mean norm of what it was trained on.",
        _rescaled_panels(coders),
        f"{GEMMA_SCOPE}, fig. 23",
    )
    return drawn([*figures, rescaled])


def transfer_facts(results: RunResults) -> str:
    """What the finetune was given and wrote, in a sentence or two."""
    found = results.transfer
    if not found:
        return ""
    said = [f"{found['sequences']:,} conversations with {found['lm']}"]
    said += [f"at temperature {t}" for t in [found.get("temperature")] if t is not None]
    said += [f"{found[key]:,} tokens of {part}" for part, key in _TOKENS.items() if key in found]
    clean = [
        f"{number(loss)} on the {part}"
        for part in PARTS
        if (loss := at(found, "clean_loss", part)) is not None
    ]
    ending = f" The finetune’s own loss is {' and '.join(clean)}, nats a token." if clean else ""
    return f"{', '.join(said)}.{ending}"


def transfer_table(results: RunResults, looks: dict[str, Style]) -> list[Table]:
    """Every figure of every coder, prompt and rollout in rows of their own."""
    rows = [
        coder.figures | {"name": coder.name, "part": part} | coder.figures[part]
        for coder in _coders(results, looks)
        for part in PARTS
        if coder.figures.get(part)
    ]
    columns = [
        linked_column("coder", "one of this run leads to its page", "name", looks),
        _words("trained on", "trained_on"),
        _words("part", "part"),
        plain_column("L0", "mean number of active latents a token", "l0"),
        plain_column("FVU", "fraction of variance unexplained", "fvu"),
        plain_column("Δ loss", "CE(spliced) − CE(clean), nats a token", "delta_loss"),
        plain_column("L0, rescaled", f"L0 {_SCALED}", "l0_rescaled"),
        plain_column("FVU, rescaled", f"FVU {_SCALED}", "fvu_rescaled"),
        plain_column("Δ loss, rescaled", f"Δ loss {_SCALED}", "delta_loss_rescaled"),
    ]
    return table("On the finetune", "Special tokens are left out.", columns, rows)


def _words(heading: str, key: str) -> Column[Row]:
    return Column(heading, "", lambda row: row.get(key), key=key)


def _coders(results: RunResults, looks: dict[str, Style]) -> list[_Coder]:
    """Those that are alike but for where they were trained stand beside each other."""
    rungs: dict[str, Row] = dict(results.transfer.get("rungs") or {})
    colours = {look.label: series_colour(look.colour) for look in looks.values()}

    def order(name: str) -> tuple[Any, ...]:
        about = [rungs[name].get(key) for key in ("form", "kind", "num_latents", "k", "trained_on")]
        return *((value is not None, value) for value in about), name

    return [
        _Coder(
            name,
            _label(name, rungs[name]),
            colours.get(width_label(rungs[name].get("num_latents", 0)), ACCENT),
            rungs[name].get("trained_on") == "finetuned",
            rungs[name],
        )
        for name in sorted(rungs, key=order)
    ]


def _label(name: str, about: Row) -> str:
    """Kind and width, with k, where they are said."""
    if "kind" not in about:
        return name
    k = f" k {about['k']}" if about.get("k") is not None else ""
    return f"{family_label(about['kind'], about['form'])} {width_label(about['num_latents'])}{k}"


def _bar_panels(key: str, label: str, coders: list[_Coder]) -> list[Panel]:
    bars = {
        part: [(coder, v) for coder in coders if (v := at(coder.figures, part, key)) is not None]
        for part in PARTS
    }
    values = [0.0, *(value for own in bars.values() for _, value in own)]
    return [
        Panel(_draw_bars(f"transfer-{key}-{part}", label, own, values), part)
        for part, own in bars.items()
        if own
    ]


def _draw_bars(key: str, label: str, bars: list[tuple[_Coder, float]], values: list[float]) -> str:
    def paint(ax: Axes) -> None:
        for row, (coder, value) in enumerate(bars):
            colour = "none" if coder.is_open else coder.colour
            ax.barh(
                *(row, value, 0.55),
                color=colour,
                edgecolor=coder.colour,
                linewidth=1.4,
                gid=f"bar-{row}",
            )

    tooltips = {f"bar-{i}": f"{c.name}: {number(value)}" for i, (c, value) in enumerate(bars)}
    return rows_panel(key, [coder.label for coder, _ in bars], paint, values, label, tooltips)


def _rescaled_panels(coders: list[_Coder]) -> list[Panel]:
    panels = []
    for part in PARTS:
        own = [coder for coder in coders if _has_both(coder.figures.get(part))]
        if own:
            panels.append(Panel(_draw_rescaled(f"rescaled-{part}", part, own), part))
    return panels


def _has_both(figures: Row | None) -> bool:
    return all(at(figures, key) is not None for key in (*_PLAIN, *_RESCALED))


def _draw_rescaled(key: str, part: str, coders: list[_Coder]) -> str:
    ends = [
        [[coder.figures[part][k] for k in keys] for keys in (_PLAIN, _RESCALED)] for coder in coders
    ]

    def paint(ax: Axes) -> None:
        for row, (coder, (plain, rescaled)) in enumerate(zip(coders, ends, strict=True)):
            ax.plot(*zip(plain, rescaled, strict=True), color=coder.colour, linewidth=1)
            ax.plot(*rescaled, "o", color=coder.colour, markersize=3.5)
            fill = "none" if coder.is_open else "full"
            ax.plot(
                *(*plain, "o"),
                color=coder.colour,
                markersize=7.5,
                fillstyle=fill,
                gid=f"coder-{row}",
            )
        for place, which in enumerate("xy"):
            scale(ax, which, [end[place] for both in ends for end in both])
        ax.set(xlabel="L0 (active latents a token)", ylabel="FVU (fraction of variance)")

    return draw(key, paint, {f"coder-{row}": coder.name for row, coder in enumerate(coders)})
