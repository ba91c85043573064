"""A run in words: what was trained on what."""

import re
from itertools import pairwise
from typing import Any

from sae_dist.report.numbers import duration, number
from sae_dist.report.results import RunResults, width_label
from sae_dist.report.styles import grouped


def headline(results: RunResults) -> str:
    """The run in one line: how many coders of which widths, of what kind, trained where."""
    rungs = results.rungs
    if not rungs:
        return f"{_plural(len(results.trained_rungs()), 'rung')}, not evaluated yet"
    widths = sorted({rung["num_latents"] for rung in rungs})
    span = " to ".join(width_label(width) for width in dict.fromkeys((widths[0], widths[-1])))
    families = ", ".join(grouped(rungs, lambda rung: rung["family"]))
    places = ", ".join(grouped(rungs, lambda rung: rung["place"]))
    return f"{_plural(len(rungs), 'coder')} of {span} latents ({families}) on {places}"


def facts(results: RunResults) -> list[tuple[str, str]]:
    """What was trained on what, as far as the files of the run say it."""
    config, about, found = results.config, results.about, []
    for key, name in (("tokens", "trained on tokens"), ("batch_tokens", "tokens a step")):
        if isinstance(config.get(key), int):
            found.append((name, f"{config[key]:,}"))
    found += [(key, str(config[key])) for key in ("seed", "precision") if key in config]
    if seconds := training_seconds(results):
        found.append(("training time", duration(seconds)))
    if skipped := sum(
        int(max((count for _, count in results.logged(name, "skipped_steps")), default=0))
        for name in results.trained_rungs()
    ):
        found.append(("steps skipped (not finite)", f"{skipped:,}"))
    if about.get("tokens") is not None:
        of_sequences = f" of {about['sequences']:,} sequences" if about.get("sequences") else ""
        found.append(("evaluated on tokens", f"{about['tokens']:,}{of_sequences}"))
    lm = about.get("lm") or {}
    named = {"language model": lm.get("name"), "its commit": lm.get("commit")}
    found += [(name, _plain(value)) for name, value in named.items() if value]
    if about.get("clean_loss") is not None:
        found.append(("clean loss of the LM", f"{number(about['clean_loss'])} nats a token"))
    store = about.get("store") or {"path": config.get("store")}
    return found + [(f"store: {key}", text) for key, text in leaves(store)]


def training_seconds(results: RunResults) -> float:
    """Time spent training, over all starts of the run (each counts its seconds from zero)."""
    seconds = [value for _, value in results.logged(None, "seconds")]
    return sum(now for now, later in pairwise([*seconds, 0.0]) if later < now)


def leaves(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Plain values of a nested dict, keys joined by dots."""
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            found += leaves(item, f"{prefix}{key}.")
        elif isinstance(item, list):
            found.append((f"{prefix}{key}", ", ".join(map(_plain, item))))
        elif item is not None:
            found.append((f"{prefix}{key}", _plain(item)))
    return found


def _plain(value: Any) -> str:
    """A value as text; of a hash the first twelve digits."""
    text = f"{value:,}" if type(value) is int else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
