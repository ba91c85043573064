"""The card of exported coders: what they are, on what, how good, and how to load them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_dist.common.files import write_atomic
from sae_dist.interop.format import Format

CARD = "README.md"
_HEADER = """\
---
library_name: {library}
tags:
- sparse-autoencoder
- mechanistic-interpretability
{base}---

# {run}

Sparse coders of language-model activations, trained with sae_dist, in the format of {title}.
They take raw activations: all normalisation is folded into them.
"""
_COLUMNS = "folder", "kind", "form", "from", "to", "latents"
_BEHIND_GAIN = """
Those at `mlp_in` take what the MLP itself is given, behind the gain of the norm before it. In
TransformerLens that is `blocks.N.mlp.hook_in` of a TransformerBridge (SAELens'
SAETransformerBridge); `blocks.N.ln2.hook_normalized` is before the gain, and is wrong for them.
"""
_OURS = """\
import sae_dist

coder = sae_dist.load_coder("{where}")
acts = coder.encode(x)
y = coder(x)
"""
_COMMIT = re.compile(r"[0-9a-f]{40}")  # of the Hub; a folder's revision is longer


def public(about: dict[str, Any]) -> dict[str, Any]:
    """What a coder was trained on, without paths of this machine: of folders only the name."""
    return {**about, "source": _public(about.get("source") or {})}


def _public(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: _without_folders(inner) if key in ("name", "path") else _public(inner)
        for key, inner in value.items()
        if key != "store"
    }


def _without_folders(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    path = Path(name).expanduser()
    is_local = path.exists() or name.startswith((".", "~")) or path.is_absolute()
    return path.name if is_local else name


def write_card(
    folder: Path,
    format: Format,
    run: str,
    repo: str | None,
    coders: Mapping[str, dict[str, Any]],
    measured: Mapping[str, Sequence[str]],
    told: str,
) -> Path:
    """Write `README.md`.

    Args:
        folder: where the coders were written.
        format: theirs.
        run: that trained them.
        repo: where they are going to be.
        coders: by place in the folder, each one's description with a public `about`.
        measured: by heading, each coder's figure as text.
        told: a sentence on what that was measured on.
    """
    place, first = next(iter(coders.items()))
    source = first["about"].get("source") or {}  # a run has one language model and one text
    lm, text = source.get("lm") or {}, source.get("text") or {}
    base = f"base_model: {lm['name']}\n" if _COMMIT.fullmatch(str(lm.get("commit"))) else ""
    card = _HEADER.format(library=format.library, base=base, run=run, title=format.title)
    card += "\n" + "".join(f"- {line}\n" for line in _sources(lm, text)) + "\n"
    card += "".join(f"| {' | '.join(cells)} |\n" for cells in _rows(coders, measured))
    card += f"\n{told}\n"
    if lm and not lm.get("fold_norms") and any(map(_reads_mlp_in, coders.values())):
        card += _BEHIND_GAIN
    repo = repo or "USER/REPO"
    file = f"/{format.weights}" if format.is_fetched_by_file else ""
    ours = _OURS.format(where=f"hub:{repo}/{place}{file}")
    ways = {format.title: format.loading.format(repo=repo, path=place)} | {"sae_dist": ours}
    card += "\n## Loading\n"
    for title, code in ways.items():
        card += f"\n{title}:\n\n```python\n{code}```\n" if code else ""
    write_atomic(folder / CARD, card.encode())
    return folder / CARD


def _reads_mlp_in(coder: dict[str, Any]) -> bool:
    return bool(coder["about"]["site"].startswith("mlp_in."))


def _sources(lm: dict[str, Any], text: dict[str, Any]) -> Iterator[str]:
    if lm:
        yield f"language model: {lm.get('name')} at {lm.get('commit')}"
    if text:
        yield f"text: {text.get('path')}, sequences of {text.get('sequence_length')} tokens"
    if not lm and not text:
        yield "activations that did not come from a language model"


def _rows(
    coders: Mapping[str, dict[str, Any]], measured: Mapping[str, Sequence[str]]
) -> Iterator[list[str]]:
    columns = [*_COLUMNS, *measured]
    yield columns
    yield ["---"] * len(columns)
    for i, (place, description) in enumerate(coders.items()):
        config, about = description["config"], description["about"]
        shape = [config["kind"], config["form"].replace("_", " "), about["site"], about["target"]]
        figures = [texts[i] for texts in measured.values()]
        yield [f"`{place}`", *shape, f"{config['num_latents']:,}", *figures]
