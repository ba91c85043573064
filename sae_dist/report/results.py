"""What a report is made of, read from the plain files of a run."""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sae_dist.common.errors import UserError

_VERSIONS = (2, 3)  # version 3 adds keys alone


@dataclass(kw_only=True, slots=True)
class RungResult:
    """The evaluation of one coder: what it is, and its `figures` under `evaluation.json`'s keys."""

    name: str
    kind: str
    form: str
    site: str
    target: str
    num_latents: int
    k: int | None = None
    target_l0: float | None = None
    d_in: int | None = None
    d_out: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def number(self, *keys: str) -> float | None:
        """The figure at `keys`, one inside the other; None where it was not taken."""
        found = at(self.figures, *keys)
        return found if is_finite_number(found) else None

    def has(self, *keys: str) -> bool:
        """Whether the figure was taken: it is null where it is not defined."""
        *outer, last = keys
        found = at(self.figures, *outer)
        return isinstance(found, dict) and last in found


@dataclass(kw_only=True, slots=True)
class RunResults:
    """All that is known of a run. Without an evaluation `rungs` is empty; `metrics` may be, too.

    Args:
        config: the composed training configuration.
        store: what the evaluation says of the store it read.
        lm: the language model that the activations came from: `name`, `commit`, settings.
        tokens: evaluated; likewise `sequences`.
        clean_loss: cross-entropy of the untouched language model, nats a token.
        pairs: coders beside each other, as in `evaluation.json`; likewise `ladder`, `comparison`
            and `transfer`. Empty where they were not measured.
        metrics: the lines of `metrics.jsonl`, in order.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    lm: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    sequences: int | None = None
    clean_loss: float | None = None
    rungs: list[RungResult] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    ladder: dict[str, Any] = field(default_factory=dict)
    comparison: list[dict[str, Any]] = field(default_factory=list)
    transfer: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def curve(self, rung: str | None, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a logged figure, finite ones only; rung None: of the whole ladder."""
        points = [
            (int(line["step"]), float(line[key]))
            for line in self.metrics
            if line.get("rung") == rung and is_finite_number(line.get(key))
        ]
        return [step for step, _ in points], [value for _, value in points]

    def trained_rungs(self) -> list[str]:
        """Names of the rungs in the metrics, in the order of their first line."""
        return list(dict.fromkeys(line["rung"] for line in self.metrics if line.get("rung")))


def at(values: Any, *keys: str) -> Any:
    """What lies at `keys`, one inside the other, in nested dicts; None where one is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def is_finite_number(value: Any) -> bool:
    """Whether a figure can be drawn."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def load(folder: Path) -> RunResults:
    """Read `config.yaml`, `evaluation.json` and `metrics.jsonl` of a run, as far as they are there.

    Raises:
        UserError: neither an evaluation nor metrics are there, or a file cannot be understood.
    """
    evaluation_path, metrics_path = folder / "evaluation.json", folder / "metrics.jsonl"
    if not (evaluation_path.is_file() or metrics_path.is_file()):
        raise UserError(
            f"found neither evaluation.json nor metrics.jsonl in {folder}; "
            "expected the folder of a run: train or evaluate it first"
        )
    results = RunResults(name=folder.resolve().name, config=_read_config(folder / "config.yaml"))
    if metrics_path.is_file():
        results.metrics = read_metrics(metrics_path)
    if evaluation_path.is_file():
        _add_evaluation(results, evaluation_path)
    return results


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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML; restore it, or remove it to go without") from error
    return config if isinstance(config, dict) else {}


def _add_evaluation(results: RunResults, path: Path) -> None:
    try:
        evaluation = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        version = evaluation.get("version")
        if version not in _VERSIONS:
            raise UserError(
                f"{path}: found version {version!r}; expected {_VERSIONS[-1]}; "
                "evaluate the run again"
            )
        results.name = str(evaluation.get("run", results.name))
        results.tokens = evaluation.get("tokens")
        results.sequences = evaluation.get("sequences")
        results.clean_loss = evaluation.get("clean_loss")
        for key in ("store", "lm", "ladder", "transfer"):
            setattr(results, key, dict(evaluation.get(key) or {}))
        for key in ("pairs", "comparison"):
            setattr(results, key, list(evaluation.get(key) or []))
        rungs = [_rung(name, rung) for name, rung in evaluation["rungs"].items()]
        results.rungs = sorted(
            rungs, key=lambda r: (r.form, r.kind, r.num_latents, r.k or r.target_l0 or 0, r.name)
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); evaluate the run again"
        ) from error


def _rung(name: str, values: dict[str, Any]) -> RungResult:
    """A missing target is the site itself."""
    known = {item.name for item in fields(RungResult)} - {"name", "figures"}
    chosen = {"target": values["site"], **{key: values[key] for key in known & values.keys()}}
    if chosen["target"] in (None, "same"):
        chosen["target"] = chosen["site"]
    return RungResult(name=name, **chosen, figures=values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a measure")
