"""Credentials stay out of everything that is printed or written."""

import re
from collections.abc import Iterator
from typing import Any

_IN_URL = re.compile(r"(?<=:/)(/?)[^/\s]*@")  # pathlib makes one slash of two


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of every URL in it."""
    return _IN_URL.sub(r"\1", text)


def keys_with_credentials(value: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of all strings, in nested dicts and lists, that hold a URL with credentials."""
    if isinstance(value, str) and _IN_URL.search(value):
        yield key
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, item in value.items():
            yield from keys_with_credentials(item, f"{key}.{name}" if key else str(name))
