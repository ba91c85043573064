"""What an evaluation leaves in a run's folder, and how it is read.

    runs/r/evaluation/
      about.json                  the store, the language model and how many sequences were read
      RUNG/MEASURE.json           one coder's figures by one measure
      pairs/SMALLER--LARGER/…     two coders'
      …/MEASURE.safetensors       what a measure finds latent by latent, beside its figures
      MEASURE.json                what all rungs say together, or on a finetune

Each file of figures says what it is `of`: the coder, the store, the settings. It is written once
it is whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from sae_dist.common.errors import UserError
from sae_dist.common.figures import not_finite, or_null
from sae_dist.common.files import write_atomic, write_json
from sae_dist.common.log import log_info

VERSION = 4
FOLDER, ABOUT, PAIRS = "evaluation", "about", "pairs"
DESCRIPTION = "coder"  # the measure that says what a rung is
Figures = dict[str, Any]


def rung_path(run: Path, rung: str, measure: str) -> Path:
    """Where one coder's figures lie."""
    return run / FOLDER / rung / f"{measure}.json"


def pair_path(run: Path, smaller: str, larger: str, measure: str) -> Path:
    """Where two coders' figures lie, in the run of the larger; `smaller` may be `RUN/RUNG`."""
    return run / FOLDER / PAIRS / f"{smaller.replace('/', '@')}--{larger}" / f"{measure}.json"


def run_path(run: Path, measure: str) -> Path:
    """Where the figures of all rungs lie."""
    return run / FOLDER / f"{measure}.json"


def write_figures(path: Path, of: Mapping[str, Any], figures: Figures) -> None:
    """Write what a measure found; what is not finite becomes null, and is told.

    The tensors that figures have at `by_latent` go to a file beside them, which takes their place
    there.
    """
    if by_latent := figures.get("by_latent"):
        file = path.with_suffix(".safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save({key: value.cpu() for key, value in by_latent.items()}))
        last = file.parts[::-1].index(FOLDER) + 1  # from the run's folder on
        figures = figures | {"by_latent": "/".join(file.parts[-last:])}
    if places := list(not_finite(figures)):
        more = f" and {len(places) - 3} others" if len(places) > 3 else ""
        log_info(
            f"warning: {path.parent.name}: {', '.join(places[:3])}{more} are not finite, and null "
            "in the evaluation: a coder has diverged, or its activations have"
        )
    write_record(path, {"of": of, "figures": or_null(figures)})


def write_record(path: Path, value: Figures) -> None:
    """Write all or nothing, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def read_figures(path: Path, of: Mapping[str, Any] | None = None) -> Figures | None:
    """What a measure found; None where nothing is, or what is there is `of` something else.

    Of the latter a line says what has changed since.
    """
    if not path.is_file():
        return None
    record = _read(path)
    if of is None or record["of"] == of:
        return dict(record["figures"])
    changed = [k for k in sorted({*of, *record["of"]}) if of.get(k) != record["of"].get(k)]
    log_info(f"  measuring {path.parent.name}/{path.stem} again: {', '.join(changed)} changed")
    return None


def read_evaluation(run: Path) -> dict[str, Any] | None:
    """All that was measured of a run; None if nothing was.

    Returns:
        what `about.json` says; `rungs`, by name all figures of a coder; `pairs`, each with
        `smaller`, `larger` and all figures of both; `of_run`, by name the figures of the measures
        of all rungs; `tokens` and `clean_loss`, the most and the first that any coder has.

    Raises:
        UserError: a file cannot be understood, or was written by another version.
    """
    folder = run / FOLDER
    if not (folder / f"{ABOUT}.json").is_file():
        return None
    about = _read(folder / f"{ABOUT}.json", {"version"})
    if about["version"] != VERSION:
        raise UserError(
            f"{folder} has version {about['version']}; expected {VERSION}; remove it, and evaluate "
            "the run again"
        )
    rungs = {
        path.parent.name: _merged(path.parent)
        for path in sorted(folder.glob(f"*/{DESCRIPTION}.json"))
    }
    of_run = {p.stem: read_figures(p) for p in sorted(folder.glob("*.json")) if p.stem != ABOUT}
    clean = (rung["clean_loss"] for rung in rungs.values() if "clean_loss" in rung)
    return about | {
        "tokens": max((rung.get("tokens", 0) for rung in rungs.values()), default=0),
        "clean_loss": next(clean, None),
        "rungs": rungs,
        "pairs": [_merged(path) for path in sorted(folder.glob(f"{PAIRS}/*"))],
        "of_run": of_run,
    }


def _merged(folder: Path) -> Figures:
    """All figures of a rung, or of a pair with the names of both."""
    found: Figures = {}
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        found |= {key: record["of"][key] for key in ("smaller", "larger") if key in record["of"]}
        found |= record["figures"]
    return found


def _read(path: Path, keys: frozenset[str] | set[str] = frozenset({"of", "figures"})) -> Figures:
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if not isinstance(record, dict) or not keys <= record.keys():
            raise ValueError(f"it lacks {', '.join(sorted(keys))}")
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"found {path} unreadable ({reason}); expected what an evaluation wrote; remove it, "
            "and evaluate the run again"
        ) from error
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no figure")
