"""Credentials stay out of everything that is printed or written."""

import re
from collections.abc import Iterator
from typing import Any

_IN_URL = re.compile(r"(?<=:/)(/?)[^/\s]*@")  # pathlib makes one slash of two
_SECRETS = "token|key|keyid|secret|signature|sig|password|passwd|pwd|auth|credential"
# ?token=…, &X-Amz-Signature=…, &AWSAccessKeyId=…
_IN_QUERY = re.compile(rf"([?&;][\w.%-]*(?:{_SECRETS})(?:[-_]id)?=)[^&;#\s'\"]+", re.IGNORECASE)
_ALONE = re.compile(r"\b(hf_|Bearer\s+)[\w.~+/=-]{16,}")


def without_credentials(text: str) -> str:
    """The text without `user:password@` and secret parameters of URLs, and without tokens."""
    for pattern, left in ((_IN_URL, r"\1"), (_IN_QUERY, r"\1…"), (_ALONE, r"\1…")):
        text = pattern.sub(left, text)
    return text


def keys_with_credentials(value: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of all strings, in nested dicts and lists, that hold a URL with credentials."""
    if isinstance(value, str) and (_IN_URL.search(value) or _in_query(value)):
        yield key
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, item in value.items():
            yield from keys_with_credentials(item, f"{key}.{name}" if key else str(name))


def _in_query(text: str) -> bool:
    return ":/" in text and _IN_QUERY.search(text) is not None
