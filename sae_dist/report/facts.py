"""A run in words: what was trained on what."""

import re
from itertools import pairwise
from typing import Any

from sae_dist.report.numbers import duration, number
from sae_dist.report.results import RunResults
from sae_dist.report.styles import family_of, grouped, place_of, width_label


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
            found.append((name, f"{config[key]:,}"))
    found += [(key, str(config[key])) for key in ("seed", "precision") if key in config]
    if seconds := training_seconds(results):
        found.append(("training time", duration(seconds)))
    if skipped := sum(
        int(max(results.curve(name, "skipped_steps")[1], default=0))
        for name in results.trained_rungs()
    ):
        found.append(("steps skipped (not finite)", f"{skipped:,}"))
    if results.tokens is not None:
        of_sequences = f" of {results.sequences:,} sequences" if results.sequences else ""
        found.append(("evaluated on tokens", f"{results.tokens:,}{of_sequences}"))
    lm = {"language model": results.lm.get("name"), "its commit": results.lm.get("commit")}
    found += [(name, _plain(value)) for name, value in lm.items() if value]
    if results.clean_loss is not None:
        found.append(("clean loss of the LM", f"{number(results.clean_loss)} nats a token"))
    store = results.store or {"path": config.get("store")}
    return found + [(f"store: {key}", text) for key, text in _leaves(store)]


def training_seconds(results: RunResults) -> float:
    """Time spent training, over all starts of the run (each counts its seconds from zero)."""
    _, seconds = results.curve(None, "seconds")
    return sum(now for now, later in pairwise([*seconds, 0.0]) if later < now)


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
    text = f"{value:,}" if type(value) is int else str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{40,}", text) else text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
