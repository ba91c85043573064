"""The card of exported coders: what they are, on what, how good, and how to load them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_dist.common.files import write_atomic
from sae_dist.interop.config import FormatName
from sae_dist.interop.formats import FORMATS, PICKLES

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
_COLUMNS = (
    *("folder", "kind", "form", "from", "to", "latents", "L0", "FVU", "delta loss"),
    *("loss recovered", "dead"),
)
_BEHIND_GAIN = """
Those at `mlp_in` take what the MLP itself is given, behind the gain of the norm before it. In
TransformerLens that is `blocks.N.mlp.hook_in` of a TransformerBridge (SAELens'
SAETransformerBridge); `blocks.N.ln2.hook_normalized` is before the gain, and is wrong for them.
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
    name: FormatName,
    run: str,
    repo: str | None,
    coders: dict[str, dict[str, Any]],
    figures: dict[str, Any],
) -> Path:
    """Write `README.md`.

    Args:
        folder: where the coders were written.
        name: of their format.
        run: that trained them.
        repo: where they are going to be.
        coders: by place in the folder, each one's description with `rung` and a public `about`.
        figures: the run's evaluation, as it is read; empty if nothing was measured.
    """
    lm, text = _source(coders)
    base = f"base_model: {lm['name']}\n" if _COMMIT.fullmatch(str(lm.get("commit"))) else ""
    library = "saelens" if name is FormatName.saelens else "sae_dist"
    card = _HEADER.format(library=library, base=base, run=run, title=FORMATS[name].TITLE)
    card += "\n" + "".join(f"- {line}\n" for line in _sources(lm, text)) + "\n"
    card += "".join(f"| {' | '.join(cells)} |\n" for cells in _rows(coders, figures)) + "\n"
    card += _measured(figures)
    if lm and not lm.get("fold_norms") and _reads_mlp_in(coders):
        card += _BEHIND_GAIN
    card += "\n## Loading\n\n" + _loading(name, repo, next(iter(coders)))
    write_atomic(folder / CARD, card.encode())
    return folder / CARD


def _source(coders: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The language model and the text of the first coder: a run has one of each."""
    source = next(iter(coders.values()))["about"].get("source") or {}
    return source.get("lm") or {}, source.get("text") or {}


def _reads_mlp_in(coders: dict[str, dict[str, Any]]) -> bool:
    return any(coder["about"]["site"].startswith("mlp_in.") for coder in coders.values())


def _sources(lm: dict[str, Any], text: dict[str, Any]) -> Iterator[str]:
    if lm:
        yield f"language model: {lm.get('name')} at {lm.get('commit')}"
    if text:
        yield f"text: {text.get('path')}, sequences of {text.get('sequence_length')} tokens"
    if not lm and not text:
        yield "activations that did not come from a language model"


def _rows(coders: dict[str, dict[str, Any]], figures: dict[str, Any]) -> Iterator[list[str]]:
    yield list(_COLUMNS)
    yield ["---"] * len(_COLUMNS)
    for place, description in coders.items():
        config, about = description["config"], description["about"]
        found = figures.get("rungs", {}).get(description["rung"], {})
        formats = {"l0": "{:.1f}", "fvu": "{:.4f}", "delta_loss": "{:.4f}"}
        formats |= {"loss_recovered": "{:.1%}", "dead_share": "{:.1%}"}
        measured = [
            form.format(found[key]) if found.get(key) is not None else "–"
            for key, form in formats.items()
        ]
        shape = [config["kind"], config["form"].replace("_", " "), about["site"], about["target"]]
        yield [f"`{place}`", *shape, f"{config['num_latents']:,}", *measured]


def _measured(figures: dict[str, Any]) -> str:
    if not figures:
        return "Nothing was measured before these were written.\n"
    told = f"Measured on {figures['tokens']:,} tokens that training never read"
    clean = figures.get("clean_loss")
    return told + (f"; the clean loss is {clean:.4f} nats a token.\n" if clean else ".\n")


def _loading(name: FormatName, repo: str | None, place: str) -> str:
    """How the format's own client loads the first coder, and how sae_dist does."""
    repo, module = repo or "USER/REPO", FORMATS[name]
    told = f"```python\n{module.LOADING.format(repo=repo, path=place)}```\n"
    if name is not FormatName.sae_dist:
        where = place if module.WEIGHTS in PICKLES else f"hub:{repo}/{place}"
        told += f'\nsae_dist reads it, too: `sae_dist.load_coder("{where}")`.\n'
    return told
