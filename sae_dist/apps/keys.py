"""The keys and choices of each command: where they are declared, and what is near a wrong one."""

import difflib
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_origin

from sae_dist.apps import foreign
from sae_dist.apps.choices import FAMILIES, choices, families
from sae_dist.apps.overrides import shortened
from sae_dist.common.errors import UserError
from sae_dist.common.settings import Allowed, allowed_in, kinds
from sae_dist.config import parts, schema

Declared = dict[str, tuple[Any, Allowed]]
Kind = Any
"""A class of a family; to mypy it has no hash, as its objects have none."""


@cache
def keys(root: str, *chosen: Kind) -> Declared:
    """Every key of a command, groups of them included: its annotated type and what it may be.

    Args:
        chosen: classes of families (`coder=`, `optim=`, `judge=`), whose keys stand behind that;
            those of all stand where none of a family is.
    """
    found = declared_in(schema(root))
    for key, family in families(root).items():
        classes = [one for one in chosen if issubclass(one, family.base)]
        kind: Kind
        for kind in classes or map(family.named, family.names()):
            found = {**declared_in(kind, f"{key}."), **found}
    return found


@cache
def declared_in(kind: Any, place: str = "") -> Declared:
    """The same of any configuration's dataclass, behind `place`."""
    found: Declared = {}
    for declared in (one for one in fields(kind) if one.init):
        key, inner = f"{place}{declared.name}", kinds(kind)[declared.name]
        found[key] = inner, allowed_in(declared)
        if hasattr(inner, "__dataclass_fields__"):
            found |= declared_in(inner, f"{key}.")
    return found


def find(root: str, key: str, prefix: str, *chosen: Kind) -> tuple[Any, Allowed]:
    """What is declared of a key, or of the map that it is in; `chosen` as for `keys`."""
    declared = keys(root, *chosen)
    for group, family in families(root).items():
        if key == f"{group}.{family.key}":
            raise UserError(f"found {prefix}{key}=…; expected {prefix}{group}=NAME; write that")
    names = key.split(".")
    for depth in range(1, len(names)):
        kind, _ = declared.get(".".join(names[:depth]), (None, None))
        if get_origin(kind) is dict and all(names):
            return Any, Allowed()
    if key not in declared:
        _refuse_other_class(key, prefix, chosen)
        raise UserError(
            f"found key {prefix}{shortened(key)}; expected one that --help lists"
            f"{meant(root, key, prefix, *chosen)}"
        )
    kind, allowed = declared[key]
    if is_dataclass(kind):
        inside = ", ".join(one for one in declared if one.startswith(f"{key}."))
        raise UserError(f"found {prefix}{key}=…, a group of keys; expected one of {inside}")
    if key in parts(root):
        raise UserError(f"found {key}=…; expected {key}.KEY=VALUE; write them one by one")
    return kind, allowed


def _refuse_other_class(key: str, prefix: str, chosen: tuple[Kind, ...]) -> None:
    """Raise UserError for a key that only other classes of a family have."""

    def keys_of(kind: Kind) -> set[str]:
        return {*declared_in(kind, f"{group}.")}

    group = key.partition(".")[0]
    for kind in chosen:
        family = FAMILIES[group]
        having = [name for name in family.names() if key in keys_of(family.named(name))]
        names = [prefix + one for one in sorted(keys_of(kind) - keys_of(family.base))]
        own = f"one of {', '.join(names)}" if names else "none of its own"
        if having:
            raise UserError(
                f"found key {prefix}{key}, which {group}={getattr(kind, family.key)} has not, but "
                f"{' and '.join(having)}; expected {own}; take it out, or choose another "
                f"{family.what}"
            )


def meant(root: str, unknown: str, prefix: str, *chosen: Kind) -> str:
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
