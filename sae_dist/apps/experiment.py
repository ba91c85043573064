"""Experiments: a file of `conf/experiment/` says for each command what would have been typed.

    harvest:
      lm: gemma_2_2b
      tokens: 8B
    train:
      coder: topk
      coder.k: 64

Each section holds overrides of one command, in which maps may be nested. What stands on the command
line itself wins. `+experiment=FOLDER/NAME.yaml` is a file of one's own.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sae_dist.common.errors import UserError
from sae_dist.config import conf_folder

_ASKED = "+experiment="
_PARTS = {"plan": ("harvest.", "train."), "train": ("harvest.",)}  # overrides of other commands


def for_command(root: str, overrides: list[str]) -> list[str]:
    """The overrides of one command, with `+experiment=NAME` replaced by what it says for `root`.

    Raises:
        UserError: there is no such experiment, or its file is none, or says nothing for this
            command.
    """
    others = (_ASKED, *_PARTS.get(root, ()))
    typed = [override for override in overrides if not override.startswith(others)]
    names = [one.removeprefix(_ASKED) for one in overrides if one.startswith(_ASKED)]
    keys = {_key(override) for override in typed}
    groups = {_key(override) for override in typed if override.startswith("+")}  # +sweep=…
    said = [
        override
        for name in names
        for override in _section(name, root)
        if _key(override) not in keys and _key(override).partition(".")[0] not in groups
    ]
    return said + typed


def for_part(part: str, overrides: list[str]) -> list[str]:
    """What a command line like `launch/plan.py`'s says for another command: `train.tokens=1B`."""
    return [
        override.removeprefix(f"{part}.")
        for override in overrides
        if override.startswith((_ASKED, f"{part}."))
    ]


def _section(name: str, root: str) -> list[str]:
    sections = _sections(_file(name))
    if root not in sections:
        if root == "plan":
            return []
        raise UserError(
            f"experiment {name} says nothing for launch/{root}.py; it has {', '.join(sections)}"
        )
    return [f"{key}={_spelled(value)}" for key, value in _flat(sections[root])]


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
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
            yield prefix + key, value


def _spelled(value: Any) -> str:
    """A value in the grammar of Hydra's command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
