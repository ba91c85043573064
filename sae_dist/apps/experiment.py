"""Experiments: a file of `conf/experiment/` says for each command what would have been typed.

    store: stores/mine          # for both commands
    tokens: 4B
    harvest:
      lm: gemma_2_2b
      sites: [resid_post.*]
    train:
      coder: topk
      coder.k: 64
    variants:                   # +experiment=NAME:wide lays this over it
      wide: {tokens: 8B, train: {coder.num_latents: 64K}}

Maps may be nested. What stands on the command line itself wins, and a run that is not named there
or here is called as the experiment. `+experiment=FOLDER/NAME.yaml` is a file of one's own. What a
file says without quotes is read as on a command line, by its key; what stands in quotes is the text
itself.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sae_dist.apps.overrides import Typed
from sae_dist.common.errors import UserError
from sae_dist.config import conf_folder, parts

_ASKED = "experiment"
_COMMANDS = {"harvest", "train"}
_SHARED = {"store", "tokens"}
_REPLACED = {"optim", "sweep", "chat@text", "chat@transfer"}  # whole, by a choice that is typed


def for_command(root: str, given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What a command is told, with `experiment=NAME` replaced by what it says for `root`.

    What is told of another command is left out.

    Raises:
        UserError: there is no such experiment, or its file is none, or says nothing for this
            command.
    """
    others = tuple(f"{part}." for part in parts(root))
    typed = [(key, v) for key, v in given if key != _ASKED and not key.startswith(others)]
    replaced = dict(typed).keys() & _REPLACED
    said = [
        (key, value)
        for asked, name in given
        if asked == _ASKED
        for key, value in _section(str(name), root)
        if key.partition(".")[0] not in replaced
    ]
    return said + typed


def for_part(part: str, given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What is told of another command: `tokens=1B` of `train.tokens=1B`; and the experiment."""
    return [
        (key.removeprefix(f"{part}."), value)
        for key, value in given
        if key == _ASKED or key.startswith(f"{part}.")
    ]


def _section(name: str, root: str) -> list[tuple[str, Any]]:
    """What an experiment says for a command, what its variants say last."""
    if root == "plan":  # asks for the others
        return []
    file, *variants = name.split(":")
    path = _file(file)
    said = _read(path)
    layers, known = [said], said.get("variants", {})
    for variant in variants:
        if variant not in known:
            raise UserError(
                f"found no variant {variant!r} of experiment {file}; expected one of "
                f"{', '.join(known) or 'none'}"
            )
        layers.append(known[variant])
    if not any(root in layer for layer in layers):
        there = sorted(_COMMANDS & said.keys())
        raise UserError(
            f"experiment {name} says nothing for sae-dist {root}; it has {', '.join(there)}"
        )
    found = [("run", "-".join([path.stem, *variants]))] if root == "train" else []
    for layer in layers:
        found += [(key, layer[key]) for key in layer if key in _SHARED]
        found += [(key.lstrip("+"), value) for key, value in layer.get(root, {}).items()]
    return found


def _file(name: str) -> Path:
    """A shipped file by its name, or one of the user's by its path, which ends with .yaml."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = conf_folder() / "experiment"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
        raise UserError(
            f"found no experiment {name!r}; expected one of {', '.join(near)}, or a path that ends "
            "with .yaml"
        )
    return folder / f"{name}.yaml"


def _read(path: Path) -> dict[str, Any]:
    """What a file says."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _AsTyped)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"found no experiment in {path} ({told}); correct the file or its path"
        ) from error
    variants = found.get("variants", {}) if isinstance(found, dict) else None
    if not isinstance(variants, dict) or not all(map(_is_layer, [found, *variants.values()])):
        raise UserError(
            f"found {path} without a section for each command; expected overrides under `harvest:` "
            "and `train:`, as in sae_dist/apps/experiment.py"
        )
    return found


def _is_layer(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() <= {*_COMMANDS, *_SHARED, "variants"}
        and all(isinstance(found[key], dict) for key in _COMMANDS & found.keys())
    )


class _AsTyped(yaml.SafeLoader):
    """YAML in which a plain scalar is `Typed`, a quoted one text, and nothing at all null."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML has it)
        "<": [("tag:yaml.org,2002:merge", re.compile("<<"))]
    }


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str | None:
    if node.style is not None:
        return str(node.value)
    return Typed(node.value) if node.value else None


_AsTyped.add_constructor("tag:yaml.org,2002:str", _scalar)
