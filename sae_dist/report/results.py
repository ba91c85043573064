"""What a report is made of, read from the plain files of a run."""

import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sae_dist.coders import Form, kind_named, kind_names
from sae_dist.common.errors import UserError
from sae_dist.common.joint import short_name
from sae_dist.evaluate.results import read_evaluation

Record = dict[str, Any]
_FORMS = {form.value: form.replace("_", " ") for form in Form if form is not Form.autoencoder}
_LOSSES = {"fvu": "FVU", "delta_loss": "Δ loss"}


@dataclass(kw_only=True)
class RunResults:
    """All that is known of a run. Without an evaluation `rungs` is empty; `metrics` may be, too.

    Args:
        config: the composed training configuration.
        about: what was evaluated: `store`, `lm`, `tokens`, `sequences`, `clean_loss`.
        rungs: one record a coder, its name at `rung`; `pairs`: one a pair of them, names at
            `smaller` and `larger`.
        of_run: by measure, what it says of all of them together; its records are at `rows`.
        metrics: the lines of `metrics.jsonl`, in order.
        has_latents: whether there are pages of what each latent fires on.

    All records have a `place`, a `family` and a `family_and_place` in words where they can.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    rungs: list[Record] = field(default_factory=list)
    pairs: list[Record] = field(default_factory=list)
    of_run: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    has_latents: bool = False

    def trained_rungs(self) -> list[str]:
        """Names of the rungs in the metrics, in the order of their first line."""
        return [name for name in self._lines if name]

    def logged(self, rung: str | None, key: str) -> list[tuple[int, float]]:
        """Steps and finite values of a metric; rung None: of the whole ladder."""
        lines = self._lines.get(rung, [])
        return [(x["step"], float(x[key])) for x in lines if is_finite_number(x.get(key))]

    @cached_property
    def _lines(self) -> dict[str | None, list[dict[str, Any]]]:
        lines: dict[str | None, list[dict[str, Any]]] = {}
        for line in self.metrics:
            lines.setdefault(line.get("rung"), []).append(line)
        return lines


def at(values: Any, key: str) -> Any:
    """What lies at a path of keys, `a/b`, in nested dicts; None where one is missing.

    Of a list it is the list of what lies there in each of its items.
    """
    for i, part in enumerate(parts := key.split("/")):
        if isinstance(values, list):
            return [at(value, "/".join(parts[i:])) for value in values]
        values = values.get(part) if isinstance(values, dict) else None
    return values


def has(values: Any, key: str) -> bool:
    """Whether something lies there, if only a None: of what is not defined."""
    outer, _, last = key.rpartition("/")
    found = at(values, outer) if outer else values
    return isinstance(found, dict) and last in found


def is_finite_number(value: Any) -> bool:
    """Whether a figure can be drawn."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def load(folder: Path) -> RunResults:
    """Read a run's `config.yaml`, `metrics.jsonl` and evaluation, as far as they are there.

    Raises:
        UserError: neither an evaluation nor metrics are there, or a file cannot be understood.
    """
    metrics_path, evaluation = folder / "metrics.jsonl", read_evaluation(folder)
    if evaluation is None and not metrics_path.is_file():
        raise UserError(
            f"found neither an evaluation nor metrics.jsonl in {folder}; "
            "expected the folder of a run: train or evaluate it first"
        )
    results = RunResults(name=folder.resolve().name, config=_read_config(folder / "config.yaml"))
    results.has_latents = (folder / "latents" / "index.html").is_file()
    if metrics_path.is_file():
        results.metrics = read_metrics(metrics_path)
    if evaluation is None:
        return results
    results.name, results.about = str(evaluation.get("run", results.name)), evaluation
    rungs = [described({"rung": name} | own) for name, own in evaluation["rungs"].items()]
    results.rungs = sorted(rungs, key=_order)
    by_name = {record["rung"]: record for record in rungs}
    results.pairs = [
        {k: by_name[pair["larger"]][k] for k in ("place", "family", "family_and_place")}
        | {"title": f"{pair['smaller']} → {pair['larger']}"}
        | pair
        for pair in evaluation["pairs"]
        if pair["larger"] in by_name
    ]
    results.of_run = {
        name: figures | {"rows": [described(row) for row in figures.get("rows", [])]}
        for name, figures in evaluation["of_run"].items()
    }
    return results


def described(record: Record) -> Record:
    """A record with its `place` and `family` in words, as far as it says them."""
    if "site" in record:
        target = record.get("target") or record["site"]
        is_one = target in ("same", record["site"])
        site, target = short_name(record["site"]), short_name(target)
        record = {"place": site if is_one else f"{site} → {target}"} | record
    if "kind" in record:
        kind, form = record["kind"], record.get("form", "")
        title = kind_named(kind).title if kind in kind_names() else kind  # of a package not here
        words = " ".join(filter(None, (title, _FORMS.get(form))))
        place = f" · {record['place']}" if "place" in record else ""
        record = {"family": words, "family_and_place": words + place} | record
        if "loss" in record:
            loss = _LOSSES.get(record["loss"], record["loss"])
            record = {"title": f"{words}{place} · {loss}", "loss_heading": loss} | record
    return record


def width_label(num_latents: int) -> str:
    """Powers of two as the field writes them: 16384 is `16K`, 1048576 is `1M`."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if num_latents % size == 0:
            return f"{num_latents // size}{unit}"
    return f"{num_latents:,}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a crash has torn is left out.

    Raises:
        UserError: any other line is not a JSON object with a step.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    metrics = []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            line["step"] = int(line["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}, line {number}: found {text[:60]!r}; expected a JSON object with a step; "
                "remove that line"
            ) from error
        metrics.append(line)
    return metrics


def _order(record: Record) -> tuple[Any, ...]:
    """Kind by kind and site by site (`resid_post.9` before `.10`), narrow and sparse ones first."""
    place = [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", record["place"])]
    sparsity = record.get("k") or record.get("target_l0") or 0
    return record["form"], record["kind"], place, record["num_latents"], sparsity, record["rung"]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML; restore it, or remove it to go without") from error
    return config if isinstance(config, dict) else {}
