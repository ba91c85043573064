"""The keys and choices of each command: where they are declared, and what is near a wrong one."""

import difflib
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_origin

from sae_dist.apps import foreign
from sae_dist.apps.overrides import shortened
from sae_dist.common.errors import UserError
from sae_dist.common.settings import Allowed, allowed_in, kinds
from sae_dist.config import conf_folder, parts, schema

_PREFIX = {"sweep": "+", "experiment": "+", "chat": "+"}  # groups without a default are added
_HOLDS_A_TEMPLATE = {"text", "transfer"}  # where a file of `chat` may go
_EXPERIMENTS = ("plan", "harvest", "train")  # the commands that an experiment speaks to


def keys(root: str) -> dict[str, tuple[Any, Allowed]]:
    """Every key of a command, groups of them included: its annotated type and what it may be."""
    return declared_in(schema(root))


@cache
def declared_in(kind: Any, place: str = "") -> dict[str, tuple[Any, Allowed]]:
    """The same of any configuration's dataclass, behind `place`."""
    found: dict[str, tuple[Any, Allowed]] = {}
    for declared in fields(kind):
        key, inner = f"{place}{declared.name}", kinds(kind)[declared.name]
        found[key] = inner, allowed_in(declared)
        if hasattr(inner, "__dataclass_fields__"):
            found |= declared_in(inner, f"{key}.")
    return found


@cache
def choices(root: str) -> dict[str, list[str]]:
    """The groups of a command as they are written on its line, each with its files' names."""
    known = {declared.name for declared in fields(schema(root))}
    groups = {path.name: path for path in sorted(conf_folder().iterdir()) if path.name in known}
    if root in _EXPERIMENTS:
        groups["experiment"] = conf_folder() / "experiment"
    groups |= {f"chat@{key}": conf_folder() / "chat" for key in sorted(_HOLDS_A_TEMPLATE & known)}
    return {
        _PREFIX.get(folder.name, "") + group: sorted(path.stem for path in folder.glob("*.yaml"))
        for group, folder in groups.items()
        if folder.is_dir()
    }


def find(root: str, key: str, prefix: str) -> tuple[Any, Allowed]:
    """What is declared of a key, or of the map that it is in."""
    declared = keys(root)
    names = key.split(".")
    for depth in range(1, len(names)):
        kind, _ = declared.get(".".join(names[:depth]), (None, None))
        if get_origin(kind) is dict and all(names):
            return Any, Allowed()
    if key not in declared:
        raise UserError(
            f"found key {prefix}{shortened(key)}; expected one that --help lists"
            f"{meant(root, key, prefix)}"
        )
    kind, allowed = declared[key]
    if is_dataclass(kind):
        inside = ", ".join(one for one in declared if one.startswith(f"{key}."))
        raise UserError(f"found {prefix}{key}=…, a group of keys; expected one of {inside}")
    if key in parts(root):
        raise UserError(f"found {key}=…; expected {key}.KEY=VALUE; write them one by one")
    return kind, allowed


def meant(root: str, unknown: str, prefix: str) -> str:
    """The end of a line that says what an unknown key may be here; nothing if nobody knows."""
    known = [key for key, (kind, _) in keys(root).items() if not is_dataclass(kind)]
    last = unknown.rpartition(".")[2]
    foreigners = foreign.ours(unknown)
    for ours in foreigners:
        if ours in known or ours in choices(root):
            return f"; {last} of other libraries is {prefix}{ours} here"
    near = [key for key in known if key.rpartition(".")[2] == last and key != unknown]
    near += difflib.get_close_matches(unknown, known, n=2, cutoff=0.7)
    lasts = [key.rpartition(".")[2] for key in known]
    close = difflib.get_close_matches(last, lasts, n=1, cutoff=0.8)
    near += [key for key, end in zip(known, lasts, strict=True) if end in close]
    if near:
        told = " or ".join(f"{prefix}{key}" for key in list(dict.fromkeys(near))[:3])
        return f"; did you mean {told}?"
    for ours in foreigners:
        for other in ("harvest", "train", "export"):
            if ours in keys(other):
                return f"; {last} of other libraries is {ours} of sae-dist {other} here"
    return ""
