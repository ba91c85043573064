"""A run's latents as pages that open from disk: `runs/r/latents/index.html`.

    runs/r/latents/
      index.html            the application: style, script, and what the run is about
      pages/vocabulary.js   the tokens' bytes
      pages/text/           the sequences, in blocks
      pages/rungs/RUNG/     see `pages/rung.py`, and `parents.js`, `explanations.js`

The page loads a file when it needs it. `index.html` and `pages/` are all that it needs, so that
these may be copied elsewhere.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path, write_atomic
from sae_dist.common.html import environment, inert_json, palette
from sae_dist.latents import Latents, read_explanations, rungs_with_latents
from sae_dist.latents.folder import ABOUT, FOLDER
from sae_dist.pages.ladder import MIN_COSINE, narrower, parents, splits
from sae_dist.pages.packed import packed, packed_texts, write_packed
from sae_dist.pages.rung import PER_FILE, write_rung

PAGES, _OF, _VOCABULARY = "pages", "of", "vocabulary.js"
_VERSION = 1
_BLOCK_TOKENS = 1 << 16


def write(run: Path, vocabulary: Sequence[bytes] | None) -> Path:
    """Write the pages of all rungs whose latents are there, and return `index.html`.

    What was written of the same latents before is left as it is, so that this may be called again
    after more rungs, or explanations.

    Args:
        run: the run's folder.
        vocabulary: the bytes of each token by id; None where there is no tokenizer, and tokens are
            shown as their numbers.

    Raises:
        UserError: there are no latents.
    """
    if not (rungs := _in_order(run, rungs_with_latents(run))):
        raise UserError(
            f"found no latents in {run / FOLDER}; expected those of a rung; "
            f"sae-dist latents run={run.name} makes them"
        )
    pages, all_rungs = run / FOLDER / PAGES, [latents.rung for latents in rungs]
    of_run = _fingerprint(run / FOLDER / ABOUT)
    _write_once(pages / "text", of_run, partial(_write_text, rungs[0]))
    if vocabulary is not None:
        write_packed(pages / _VOCABULARY, packed_texts(vocabulary))
    else:
        (pages / _VOCABULARY).unlink(missing_ok=True)
    below = {own.rung: narrower(own, all_rungs) for own in all_rungs}
    kin = {own.rung.rung: parents(own, below[own.rung.rung]) for own in rungs}
    for latents in rungs:
        own = latents.rung
        wider = [kin[name] for name, under in below.items() if under == own and kin[name]]
        made_of = [latents.folder / ABOUT, *sorted(latents.folder.glob("beside/*.safetensors"))]
        of = " ".join([of_run, *map(_fingerprint, made_of)])
        folder = pages / "rungs" / own.rung
        _write_once(folder, of, partial(write_rung, latents))
        write_packed(folder / "parents.js", kin[own.rung] | splits(own.num_latents, wider))
        _write_explanations(run, own.rung, folder / "explanations.js")
    return write_index(run)


def write_index(run: Path) -> Path:
    """Write `index.html` anew, which says whether there is a report; where no rung has pages it is
    left as it is.
    """
    page, pages = run / FOLDER / "index.html", run / FOLDER / PAGES / "rungs"
    there = [name for name in rungs_with_latents(run) if (pages / name / _OF).is_file()]
    if there:
        write_atomic(page, _render(run, _in_order(run, there)).encode())
    return page


def _in_order(run: Path, names: Sequence[str]) -> list[Latents]:
    return sorted(
        (Latents(run, name) for name in names),
        key=lambda own: (own.rung.site, own.rung.kind, own.rung.form, own.rung.num_latents),
    )


def _fingerprint(file: Path) -> str:
    """Changes when a file is written anew."""
    return f"{_VERSION}:{file.name}:{file.stat().st_mtime_ns}"


def _write_once(folder: Path, of: str, write_files: Callable[[Path], None]) -> None:
    """Let a folder be written, whole or not at all, unless it is there and was made of the same."""
    mark = folder / _OF
    if mark.is_file() and mark.read_text() == of:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(folder) as temporary:
        write_files(temporary)
        (temporary / _OF).write_text(of)


def _write_text(latents: Latents, folder: Path) -> None:
    folder.mkdir()
    size = _sequences_per_block(latents)
    for start in range(0, latents.about.num_sequences, size):
        block = packed({"tokens": latents.token_ids_NS[start : start + size]})
        (folder / f"{start // size}.js").write_bytes(block)


def _sequences_per_block(latents: Latents) -> int:
    return max(1, _BLOCK_TOKENS // latents.about.sequence_length)


def _write_explanations(run: Path, rung: str, path: Path) -> None:
    found = read_explanations(run, rung)
    scorers = list(dict.fromkeys(name for own in found.values() for name in own.scores))
    authors = {latent: f"{own.explainer}, judged by {own.judge}" for latent, own in found.items()}
    names = list(dict.fromkeys(authors.values()))
    scores = [
        [np.nan if (score := own.scores.get(name)) is None else score for name in scorers]
        for own in found.values()
    ]
    arrays = packed_texts(own.text.encode() for own in found.values()) | {
        "latents": np.array(list(found), np.int32),
        "scores": np.array(scores, np.float32).reshape(len(found), len(scorers)),
        "authors": np.array([names.index(name) for name in authors.values()], np.int32),
    }
    write_packed(path, arrays, scorers=scorers, authors=names)


def _render(run: Path, rungs: Sequence[Latents]) -> str:
    about, all_rungs = rungs[0].about, [latents.rung for latents in rungs]
    widths = sorted({rung.num_latents for rung in all_rungs})
    described: list[dict[str, Any]] = []
    for rung in all_rungs:
        below = narrower(rung, all_rungs)
        described.append(
            msgspec.to_builtins(rung)
            | {"colour": widths.index(rung.num_latents), "below": below and below.rung}
        )
    told = msgspec.to_builtins(about) | {
        "rungs": described,
        "has_vocabulary": (run / FOLDER / PAGES / _VOCABULARY).is_file(),
        "sequences_per_block": _sequences_per_block(rungs[0]),
        "per_file": PER_FILE,
        "min_cosine": MIN_COSINE,
    }
    report = run / "report" / "index.html"
    return (
        environment("sae_dist.pages")
        .get_template("index.html.jinja")
        .render(
            name=about.run,
            report=f"../{report.relative_to(run).as_posix()}" if report.is_file() else "",
            about=inert_json(told),
            light=palette(len(widths), dark=False),
            dark=palette(len(widths), dark=True),
        )
    )
