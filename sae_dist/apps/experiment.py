"""Experiments: a file of `conf/experiment/` says for each command what would have been typed.

    harvest:
      lm: gemma_2_2b
      tokens: 8B
    train:
      coder: topk
      coder.k: 64

Each section holds overrides of one command, in which maps may be nested. What stands on the command
line itself wins. `+experiment=FOLDER/NAME.yaml` is a file of one's own. What a file says without
quotes is read as on a command line, by its key; what stands in quotes is the text itself.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from sae_dist.apps.overrides import Typed
from sae_dist.common.errors import UserError
from sae_dist.config import conf_folder

_ASKED = "experiment"
_PARTS = {"plan": ("harvest.", "train."), "train": ("harvest.",)}  # overrides of other commands
_REPLACED = {"optim", "sweep", "chat@text", "chat@transfer"}  # whole, by a choice that is typed


def for_command(root: str, given: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What a command is told, with `experiment=NAME` replaced by what it says for `root`.

    Raises:
        UserError: there is no such experiment, or its file is none, or says nothing for this
            command.
    """
    others = _PARTS.get(root, ())
    typed = [(key, v) for key, v in given if key != _ASKED and not key.startswith(others)]
    keys = {key for key, _ in typed}
    groups = keys & _REPLACED
    said = [
        (key, value)
        for asked, name in given
        if asked == _ASKED
        for key, value in _section(str(name), root)
        if key not in keys and key.partition(".")[0] not in groups
    ]
    return said + typed


def for_part(part: str, arguments: Sequence[str]) -> list[str]:
    """What a command line like `launch/plan.py`'s says for another command: `train.tokens=1B`."""
    plain = [argument.lstrip("+") for argument in arguments]
    return [
        argument.removeprefix(f"{part}.")
        for argument in plain
        if argument.startswith((f"{_ASKED}=", f"{part}."))
    ]


def _section(name: str, root: str) -> list[tuple[str, Any]]:
    sections = _sections(_file(name))
    if root not in sections:
        if root == "plan":
            return []
        raise UserError(
            f"experiment {name} says nothing for launch/{root}.py; it has {', '.join(sections)}"
        )
    return list(_flat(sections[root]))


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


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    """What a file says, by command."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _AsTyped)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"found no experiment in {path} ({told}); correct the file or its path"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise UserError(
            f"found {path} without a section for each command; expected overrides under `harvest:` "
            "and `train:`, as in sae_dist/apps/experiment.py"
        )
    return found


def _flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".lstrip("+"), value


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
