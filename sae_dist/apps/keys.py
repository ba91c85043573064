"""The keys and choices of each command: where they are declared, and what is near a wrong one."""

import difflib
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_origin

from sae_dist.apps import foreign
from sae_dist.apps.overrides import shortened
from sae_dist.coders import CoderConfig, kind_named, kind_names
from sae_dist.common.errors import UserError
from sae_dist.common.settings import Allowed, allowed_in, kinds
from sae_dist.config import VARIANTS, coder_choices, conf_folder, parts, schema

_PREFIX = {"sweep": "+", "experiment": "+", "chat": "+"}  # groups without a default are added
_HOLDS_A_TEMPLATE = {"text", "transfer"}  # where a file of `chat` may go
_EXPERIMENTS = ("plan", "harvest", "train")  # the commands that an experiment speaks to


Declared = dict[str, tuple[Any, Allowed]]
Kind = Any
"""A class of `CoderConfig`; to mypy it has no hash, as its objects have none."""


@cache
def keys(root: str, coder: Kind = None) -> Declared:
    """Every key of a command, groups of them included: its annotated type and what it may be.

    Args:
        coder: the kind whose keys stand behind `coder.`; without one those of all kinds do.
    """
    found = declared_in(schema(root))
    if found.get("coder", (None,))[0] is CoderConfig:
        kinds: list[Kind] = (
            [kind_named(name) for name in kind_names()] if coder is None else [coder]
        )
        for kind in kinds:
            found = {**declared_in(kind, "coder."), **found}
    return found


@cache
def declared_in(kind: Any, place: str = "") -> dict[str, tuple[Any, Allowed]]:
    """The same of any configuration's dataclass, behind `place`; of all variants together."""
    found: dict[str, tuple[Any, Allowed]] = {}
    for declared in (one for one in fields(kind) if one.init):
        key, inner = f"{place}{declared.name}", kinds(kind)[declared.name]
        found[key] = inner, allowed_in(declared)
        if hasattr(inner, "__dataclass_fields__"):
            for one in (*VARIANTS.get(inner, {}).values(), inner):
                found |= declared_in(one, f"{key}.")
    return found


@cache
def choices(root: str) -> dict[str, list[str]]:
    """The groups of a command as they are written on its line, each with its files' names."""
    known = {declared.name for declared in fields(schema(root))}
    groups = {path.name: path for path in sorted(conf_folder().iterdir()) if path.name in known}
    if root in _EXPERIMENTS:
        groups["experiment"] = conf_folder() / "experiment"
    groups |= {f"chat@{key}": conf_folder() / "chat" for key in sorted(_HOLDS_A_TEMPLATE & known)}
    found = {
        _PREFIX.get(folder.name, "") + group: sorted(path.stem for path in folder.glob("*.yaml"))
        for group, folder in groups.items()
        if folder.is_dir()
    }
    if "coder" in found:
        found["coder"] = sorted(coder_choices())
    return found


def find(root: str, key: str, prefix: str, coder: Kind = None) -> tuple[Any, Allowed]:
    """What is declared of a key, or of the map that it is in; `coder` as for `keys`."""
    declared = keys(root, coder)
    if key == "coder.kind":
        raise UserError(f"found {prefix}coder.kind=…; expected {prefix}coder=KIND; write that")
    names = key.split(".")
    for depth in range(1, len(names)):
        kind, _ = declared.get(".".join(names[:depth]), (None, None))
        if get_origin(kind) is dict and all(names):
            return Any, Allowed()
    if key not in declared:
        _refuse_other_kind(key, prefix, coder)
        raise UserError(
            f"found key {prefix}{shortened(key)}; expected one that --help lists"
            f"{meant(root, key, prefix, coder)}"
        )
    kind, allowed = declared[key]
    if is_dataclass(kind):
        inside = ", ".join(one for one in declared if one.startswith(f"{key}."))
        raise UserError(f"found {prefix}{key}=…, a group of keys; expected one of {inside}")
    if key in parts(root):
        raise UserError(f"found {key}=…; expected {key}.KEY=VALUE; write them one by one")
    return kind, allowed


def _refuse_other_kind(key: str, prefix: str, coder: Kind) -> None:
    """Raise UserError for a key that only other kinds of coders have."""
    kinds: list[Kind] = [kind_named(name) for name in kind_names() if coder]
    having = [kind.kind for kind in kinds if key in declared_in(kind, "coder.")]
    if having:
        common: Kind = CoderConfig
        every, shared = declared_in(coder, "coder."), declared_in(common, "coder.")
        own = ", ".join(prefix + one for one in every if one not in shared)
        raise UserError(
            f"found key {prefix}{key}, which coder={coder.kind} has not, but "
            f"{' and '.join(having)}; expected one of {own}; take it out, or choose another coder"
        )


def meant(root: str, unknown: str, prefix: str, coder: Kind = None) -> str:
    """The end of a line that says what an unknown key may be here; nothing if nobody knows."""
    known = [key for key, (kind, _) in keys(root).items() if not is_dataclass(kind)]
    last = unknown.rpartition(".")[2]
    foreigners = foreign.ours(unknown)
    for ours in foreigners:
        if ours in keys(root) or ours in choices(root):
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
