"""What a document can be: a text, a conversation, or token ids."""

from typing import Any

import numpy as np

Message = dict[str, Any]
Document = str | list[Message] | np.ndarray
_ROLES = {"human": "user", "gpt": "assistant"}


class NoDocumentError(ValueError):
    """A value that is no document."""

    def __init__(self, found: str, expected: str = "strings, messages or token ids") -> None:
        super().__init__(found)
        self.expected = expected


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
        raise NoDocumentError(type(value).__name__)
    if len(value) == 0:
        return None
    if isinstance(value[0], dict):
        return [_message(item) for item in value]
    return _ids(value)


def num_characters(document: Document) -> int:
    """Of a text, or of all messages of a conversation; token ids have none."""
    if isinstance(document, str):
        return len(document)
    contents = [] if isinstance(document, np.ndarray) else [item["content"] for item in document]
    return sum(len(content) for content in contents if isinstance(content, str))


def _ids(value: list[Any] | np.ndarray) -> np.ndarray:
    try:
        ids = np.asarray(value)
    except (ValueError, OverflowError):  # lists of several lengths
        ids = np.zeros(())
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise NoDocumentError(f"a list of {type(value[0]).__name__}")
    if (worst := ids.min()) < 0 or (worst := ids.max()) >= 2**31:
        raise NoDocumentError(f"token id {worst}", "ids from 0 to 2,147,483,647")
    return ids.astype(np.int32)


def _whole(text: Any) -> Any:
    """With U+FFFD in place of halves of surrogate pairs, which JSON can spell and UTF-8 cannot.

    What is no string stays as it is.
    """
    if not isinstance(text, str) or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _message(item: Any) -> Message:
    known = {key: x for key, x in item.items() if x is not None} if isinstance(item, dict) else {}
    if "role" in known:
        return {**known, "content": _whole(known.get("content"))}
    if "from" in known and "value" in known:
        role = str(known["from"])
        return {"role": _ROLES.get(role, role), "content": _whole(known["value"])}
    keys = f"with {sorted(known)}" if known else f"that is {type(item).__name__}"
    raise NoDocumentError(f"a message {keys}", "`role` and `content`, or `from` and `value`")
