"""The table of rungs, and the facts above it, as text."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sae_dist.report.looks import family_of, grouped, place_of, width_label
from sae_dist.report.results import RungResult, RunResults

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: what stands in it, how it is written, and what its heading means."""

    heading: str
    explained: str
    of: Callable[[RungResult], Value]
    write: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` is sorted by, `text` is shown."""

    value: Value
    text: str


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def _count(value: int) -> str:
    return f"{value:,}"


def _widths(rung: RungResult) -> Value:
    return rung.d_in if rung.d_in == rung.d_out else f"{rung.d_in} → {rung.d_out}"


COLUMNS = [
    Column("rung", "name of the coder’s folder", lambda rung: rung.name),
    Column("kind", "how latents are selected", lambda rung: rung.kind),
    Column("form", "what is reconstructed from what", lambda rung: rung.form.replace("_", " ")),
    Column("site", "where in the language model", place_of),
    Column("latents", "width of the coder", lambda rung: rung.num_latents, _count),
    Column("k", "active latents asked for", lambda rung: rung.k, _count),
    Column("d", "width of what is read → reconstructed", _widths),
    Column("L0", "mean number of active latents a token", lambda rung: rung.l0, _number),
    Column("FVU", "fraction of variance unexplained", lambda rung: rung.fvu, _number),
    Column("Δ loss", "CE(spliced) − CE(clean), nats a token", lambda r: r.delta_loss, _number),
    Column("CE +%", "100 · Δ loss / CE(clean)", lambda rung: rung.ce_increase_percent, _number),
    Column(
        "recovered",
        "loss recovered, (CE(zero) − CE(spliced)) / (CE(zero) − CE(clean))",
        lambda rung: rung.loss_recovered,
        _number,
    ),
    Column(
        "CE zero",
        "CE with the site set to zero, nats a token",
        lambda rung: rung.zero_ablation_loss,
        _number,
    ),
    Column("dead", "share of latents that never fired", lambda rung: rung.dead_share, _percent),
]


def filled_columns(rungs: list[RungResult]) -> list[Column]:
    """The columns in which at least one rung has something."""
    return [column for column in COLUMNS if any(column.of(rung) is not None for rung in rungs)]


def cells(rung: RungResult, columns: list[Column]) -> list[Cell]:
    """One row."""
    values = [(column, column.of(rung)) for column in columns]
    return [Cell(v, "–" if v is None else column.write(v)) for column, v in values]


def headline(results: RunResults) -> str:
    """The run in one line: how many coders of which widths, of what kind, trained where."""
    rungs = results.rungs
    if not rungs:
        return f"{_plural(len(results.trained_rungs()), 'rung')}, not evaluated yet"
    widths = sorted({rung.num_latents for rung in rungs})
    span = " to ".join(width_label(width) for width in dict.fromkeys((widths[0], widths[-1])))
    families = ", ".join(grouped(rungs, family_of))
    places = ", ".join(grouped(rungs, place_of))
    return f"{_plural(len(rungs), 'coder')} of {span} latents ({families}) on {places}"


def facts(results: RunResults) -> list[tuple[str, str]]:
    """What was trained on what, as far as the files of the run say it."""
    config, found = results.config, []
    for key, name in (("tokens", "trained on tokens"), ("batch_tokens", "tokens a step")):
        if isinstance(config.get(key), int):
            found.append((name, _count(config[key])))
    found += [(key, str(config[key])) for key in ("seed", "precision") if key in config]
    if seconds := training_seconds(results):
        found.append(("training time", duration(seconds)))
    if skipped := sum(
        int(max(results.curve(name, "skipped_steps")[1], default=0))
        for name in results.trained_rungs()
    ):
        found.append(("steps skipped (not finite)", _count(skipped)))
    if results.tokens is not None:
        of_sequences = f" of {results.sequences:,} sequences" if results.sequences else ""
        found.append(("evaluated on tokens", f"{results.tokens:,}{of_sequences}"))
    lm = {"language model": results.lm.get("name"), "its commit": results.lm.get("commit")}
    found += [(name, _plain(value)) for name, value in lm.items() if value]
    if results.clean_loss is not None:
        found.append(("clean loss of the LM", f"{_number(results.clean_loss)} nats a token"))
    store = results.store or {"path": config.get("store")}
    return found + [(f"store: {key}", text) for key, text in _leaves(store)]


def training_seconds(results: RunResults) -> float:
    """Time spent training, over all starts of the run (each counts its seconds from zero)."""
    _, seconds = results.curve(None, "seconds")
    return sum(now for now, later in pairwise([*seconds, 0.0]) if later < now)


def duration(seconds: float) -> str:
    """Hours and minutes, or for short times minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Plain values of a nested dict, keys joined by dots."""
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            found += _leaves(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            found.append((f"{prefix}{key}", ", ".join(map(_plain, item))))
        elif item is not None:
            found.append((f"{prefix}{key}", _plain(item)))
    return found


def _plain(value: Any) -> str:
    """A value as text; of a hash the first twelve digits."""
    text = _count(value) if type(value) is int else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
