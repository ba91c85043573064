"""What a command says of itself: `--help`, and the words that shells complete."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sae_dist.apps.choices import choices, families
from sae_dist.apps.cli import compose_config
from sae_dist.apps.keys import Declared, Kind, keys
from sae_dist.common.settings import Allowed, split_optional
from sae_dist.config import parts, schema


def help_text(root: str, arguments: Sequence[str] = ()) -> str:
    """Purpose, the choices of each group, and every key with its default, range and meaning.

    `coder=…`, `optim=…` and `judge=…` among the arguments say whose keys stand behind them.
    """
    told = [argument for argument in arguments if argument.partition("=")[0] in families(root)]
    config = compose_config(root, told)
    chosen: dict[str, Kind] = {key: OmegaConf.get_type(config, key) for key in families(root)}
    groups = [f"  {group}={'|'.join(names)}" for group, names in choices(root).items()]
    lines = [description(root), "", "Choices:", *groups, "", "Keys and defaults (key=value):"]
    lines += [
        *_defaults(keys(root, *chosen.values()), OmegaConf.to_yaml(config)),
        "",
        "What they mean:",
    ]
    return "\n".join([*lines, *_meanings(schema(root), chosen)])


def description(name: str) -> str:
    """What a command's module says of it, read without importing what it needs."""
    source = Path(__file__).with_name(f"{name}.py").read_text()
    return ast.get_docstring(ast.parse(source)) or ""


def words(root: str) -> list[str]:
    """What may stand on a command's line: `group=choice`, and `key=` for every single value, or
    `key=value` where there are some to choose from.
    """
    chosen = [f"{group}={name}" for group, names in choices(root).items() for name in names]
    return [
        *chosen,
        *(
            f"{key}={value}"
            for key, (kind, allowed) in keys(root).items()
            if not is_dataclass(kind) and key not in parts(root)
            for value in [*(_values(kind, allowed) or [""]), *(allowed.begins or list)()]
        ),
    ]


def _values(kind: Any, allowed: Allowed) -> list[str]:
    """The values that there are to choose from; none where there are too many to say."""
    plain, is_optional = split_optional(kind)
    if isinstance(plain, type) and issubclass(plain, Enum):
        return [one.value for one in plain] + ["null"] * is_optional
    return allowed.among() if allowed.among is not None else []


def _defaults(declared: Declared, yaml: str) -> Iterator[str]:
    """The lines of a configuration, each with what its key may be."""
    above: list[str] = []
    for line in yaml.splitlines():
        match = re.match(r"( *)(\w+):", line)
        note = ""
        if match:
            above = [*above[: len(match[1]) // 2], match[2]]
            note = _note(*declared.get(".".join(above), (None, Allowed())))
        yield f"  {line}  # {note}" if note else f"  {line}".rstrip()


def _note(kind: Any, allowed: Allowed) -> str:
    """A number's range, or the values that there are."""
    if allowed.has_range:
        return f"{allowed}, or null" if split_optional(kind)[1] else str(allowed)
    return "|".join(_values(kind, allowed))


def _meanings(kind: Any, chosen: dict[str, Kind], place: str = "") -> Iterator[str]:
    """What a configuration's dataclasses say of their keys, group by group."""
    bases = [base for base in kind.__mro__ if "__dataclass_fields__" in vars(base)]
    told = {base.__name__: cleandoc(base.__doc__ or "") for base in bases}
    written = [text for name, text in told.items() if not text.startswith(f"{name}(")]
    if written:
        yield "\n".join([*([f"  {place}.…:"] if place else []), _indent("\n\n".join(written)), ""])
    for key in fields(kind):
        if isinstance(key.type, type) and is_dataclass(key.type):
            inner = f"{place}.{key.name}" if place else key.name
            yield from _meanings(chosen.get(inner, key.type), chosen, inner)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
