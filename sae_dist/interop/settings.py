"""Settings of other libraries: a reader gives each key and value its meaning, or refuses it."""

import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json
from sae_dist.interop.published import told_in_one_line

Understood = dict[str, tuple[Any, ...]]
"""What each key may be: values, types, patterns of text, or tables of what is inside it."""

TEXT = re.compile(r"[ -~]{0,300}")
"""A line of plain text."""

_MOST_BYTES = 2**24
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", dict: "settings"}


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON or YAML file of settings; UserError if it is none."""
    with told_in_one_line(path):
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        is_yaml = path.suffix == ".yaml"
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if is_yaml else read_json(path)
        if not isinstance(found, dict):
            raise TypeError("no settings by name")
    return found


def read_understood(
    path: Path,
    understood: Understood,
    no_bearing: Set[str] = frozenset(),
    *,
    is_optional: bool = False,
) -> dict[str, Any]:
    """The settings in a file, all of them understood; nothing where an optional one is missing.

    Raises:
        UserError: see `read_settings` and `require_understood`.
    """
    if is_optional and not path.exists():
        return {}
    found = read_settings(path)
    require_understood(path, found, understood, no_bearing)
    return found


def require_understood(
    path: Path,
    found: Mapping[str, Any],
    understood: Understood,
    no_bearing: Set[str] = frozenset(),
    inside: str = "",
) -> None:
    """Refuse settings that might change what a coder computes in a way that is not known.

    Args:
        path: of the file, for the message.
        found: its settings.
        understood: the keys that have a meaning here, with all their values that have one.
        no_bearing: keys that are known to change nothing, whatever they say.
        inside: the key that holds these settings, with a dot after it.

    Raises:
        UserError: another key or another value, with its name.
    """
    for key, value in found.items():
        if key in no_bearing:
            continue
        if key not in understood:
            raise UserError(
                f"found {_shown(inside + key, value)} in {path}, a setting that is not known; "
                "expected those that say what a coder computes, or are known not to; remove it "
                "if it has no bearing on that"
            )
        for table in understood[key]:
            if isinstance(table, dict) and isinstance(value, dict):
                require_understood(path, value, table, no_bearing, f"{inside}{key}.")
        if not any(_is(value, one) for one in understood[key]):
            raise UserError(
                f"found {_shown(inside + key, value)} in {path}; expected "
                f"{' or '.join(map(_told, understood[key]))}; no coder here computes otherwise: "
                "convert it with the library that wrote it"
            )


def _is(value: Any, one: Any) -> bool:
    """Whether a value is one of those that an entry of a table stands for."""
    if isinstance(one, Mapping):
        return isinstance(value, dict)
    if isinstance(one, re.Pattern):
        return isinstance(value, str) and bool(one.fullmatch(value))
    if isinstance(one, type):
        return type(value) is one
    return type(value) is type(one) and bool(value == one)


def _told(one: Any) -> str:
    if isinstance(one, Mapping):
        return _TYPES[dict]
    if isinstance(one, re.Pattern):
        return "a line of plain text"
    return _TYPES[one] if isinstance(one, type) else json.dumps(one)


def _shown(key: str, value: Any) -> str:
    """Both in one line of plain characters, shortened."""
    return f"{json.dumps(key)[1:-1][:100]}={json.dumps(value)[:100]}"
