"""What a document can be: a text, a conversation, or token ids."""

from typing import Any

import numpy as np

Message = dict[str, Any]
Document = str | list[Message] | np.ndarray
_EXPECTED = "expected strings, messages or token ids"
_ROLES = {"human": "user", "gpt": "assistant"}


class NoDocumentError(ValueError):
    """A value that is no document: what was found, and what was expected."""


def as_document(value: Any) -> Document | None:
    """A column's value as a document: a string, a list of messages, or int32 ids; None if empty.

    Messages have `role` and `content`, or `from` and `value` with the roles human and gpt. Raises
    NoDocumentError for anything else.
    """
    if isinstance(value, str):
        return _whole(value) or None
    if value is None:
        return None
    if not isinstance(value, list | np.ndarray):
        raise NoDocumentError(f"{type(value).__name__}; {_EXPECTED}")
    if len(value) == 0:
        return None
    if isinstance(value[0], dict):
        return [_message(item) for item in value]
    return _ids(value)


def num_characters(document: Document) -> int:
    """Of a text, or of all messages of a conversation; token ids have none."""
    if isinstance(document, np.ndarray):
        return 0
    return len(document) if isinstance(document, str) else sum(map(_content_length, document))


def _ids(value: list[Any] | np.ndarray) -> np.ndarray:
    first = type(value[0]).__name__
    try:
        ids = np.asarray(value)
    except (ValueError, OverflowError) as error:  # lists of several lengths
        raise NoDocumentError(f"a list of {first}; {_EXPECTED}") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise NoDocumentError(f"a list of {first}; {_EXPECTED}")
    if ids.min() < 0 or ids.max() >= 2**31:
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise NoDocumentError(f"token id {worst}; expected ids from 0 to 2,147,483,647")
    return ids.astype(np.int32)


def _whole(text: str) -> str:
    """With U+FFFD in place of halves of surrogate pairs, which JSON can spell and UTF-8 cannot."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _message(item: Any) -> Message:
    known = {key: x for key, x in item.items() if x is not None} if isinstance(item, dict) else {}
    if "role" in known:
        return {**known, "content": _content(known.get("content"))}
    if "from" in known and "value" in known:
        role = str(known["from"])
        return {"role": _ROLES.get(role, role), "content": _content(known["value"])}
    keys = f"with {sorted(known)}" if known else f"that is {type(item).__name__}"
    raise NoDocumentError(f"a message {keys}; expected `role` and `content`, or `from` and `value`")


def _content(value: Any) -> Any:
    return _whole(value) if isinstance(value, str) else value


def _content_length(message: Message) -> int:
    return len(message["content"]) if isinstance(message["content"], str) else 0
