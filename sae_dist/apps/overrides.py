"""What is typed for a setting, read as its declared type asks.

A text stays as it was typed, a count may have a unit, and lists and maps are written as
`[a,b]` and `{key:value}`. Quotes keep a comma or a bracket, and `${…}` is OmegaConf's.
"""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.common.settings import Allowed, in_words, require, split_optional

_UNITS = {"K": 1, "M": 2, "B": 3, "T": 4}  # powers of 1,000, or of 1,024
_COUNT = re.compile(r"(?P<number>.*?)(?P<unit>[KMBT])(?P<binary>i?)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,30}(_\d{1,30}){0,9}")
_PLAIN_INT = re.compile(r"-?(0|[1-9]\d{0,30})")
_PLAIN_FLOAT = re.compile(r"-?(0|[1-9]\d{0,30})(\.\d{0,30})?(e[+-]?\d{1,3})?", re.IGNORECASE)
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_QUOTED = re.compile(r"""'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*\"""", re.DOTALL)
_MOST_SHOWN = 100
_LEAVES = (str, int, float, bool)
_CLOSING = {"[": "]", "{": "}", "(": ")"}
_INTERPOLATION = re.compile(r"(\\*)\$\{")


class Typed(str):
    """Text as it was typed, unquoted: what it stands for is for its key to say."""

    __slots__ = ()


def read(key: str, given: Any, kind: Any, allowed: Allowed) -> Any:
    """What was given for `key`, as a value of its type.

    Args:
        key: for messages.
        given: what was `Typed`, or a value.
        kind: the annotated type.
        allowed: what was declared beside the field.

    Raises:
        UserError: it is of another type or out of its range.
    """
    plain, is_optional = split_optional(kind)
    if isinstance(given, Typed):
        if given == "???" or (plain in _LEAVES and _is_interpolation(key, given)):
            return str(given)  # OmegaConf asks for it, or fills it in
        if given == "null" and is_optional:
            return None
        if not given:
            raise UserError(f"{key}= has no value; expected {_expected(plain, allowed, kind)}")
    if given is None and is_optional:
        return None
    if plain in _LEAVES or (isinstance(plain, type) and issubclass(plain, Enum)):
        value = _text(key, given) if plain is str else _scalar(given, plain, allowed)
    else:
        value = _compound(key, given, plain, allowed)
    if value is None:
        near = nearest(str(given), plain) if issubclass(plain, Enum) else ""
        raise UserError(
            f"{key}={shortened(given)}; expected {_expected(plain, allowed, kind)}{near}"
        )
    require(key, value, kind, allowed, shortened(given))
    if allowed.binary and isinstance(value, int) and (meant := _power_meant(str(given), value)):
        raise UserError(
            f"{key}={given} would be {value:,}; expected {meant:,}, a power of two, or the whole "
            "number; write one of them out"
        )
    return value


def _compound(key: str, given: Any, plain: Any, allowed: Allowed) -> Any:
    """A list or a map. One value stands for a list of it, and commas alone make one, too."""
    found = structure_of(key, given)
    if get_origin(plain) is dict and not isinstance(found, dict):
        raise UserError(f"{key}={shortened(given)}; expected a map, as {{key:value}}")
    if get_origin(plain) is not list:
        return plainly(found)
    if isinstance(found, Typed):
        found = structure_of(key, Typed(f"[{given}]"))
    items = found if isinstance(found, list) else [found]
    (kind,) = get_args(plain)
    if kind in _LEAVES:
        return [read(key, item, kind, allowed) for item in items]
    if not all(isinstance(item, dict) for item in items):
        raise UserError(f"{key}={shortened(given)}; expected a list of maps, as [{{key:value}}]")
    return plainly(items)


def _scalar(given: Any, plain: Any, allowed: Allowed) -> Any:
    """A number, truth or choice; None if it is none."""
    if isinstance(plain, type) and issubclass(plain, Enum):
        return next((one for one in plain if given in (one, one.value)), None)
    if plain is bool:
        return given if isinstance(given, bool) else _BOOLS.get(str(given).lower())
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    if plain is int:
        return count(str(given), 1024 if allowed.binary else 1000)
    try:
        return float(given)
    except (ValueError, OverflowError):
        return None


def count(text: str, kilo: int) -> int | None:
    """`16384`, `1e6`, `8B` or `16Ki` as a whole number; None where it is none.

    K, M, B and T are powers of `kilo`; Ki, Mi, Bi and Ti of 1,024.
    """
    match = _COUNT.fullmatch(text)
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        number = Decimal(match["number"] if match else text)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > 30:
        return None
    if match:
        number *= (1024 if match["binary"] else kilo) ** _UNITS[match["unit"].upper()]
    return int(number) if number == int(number) else None


def _power_meant(text: str, value: int) -> int | None:
    """The power of two that others write in thousands: 131072 is 131K to them, and 128K here."""
    for unit, thousands in (("K", 10**3), ("M", 10**6)):
        number = text[:-1]
        if text[-1:].upper() == unit and number.isdecimal():
            power = 1 << (int(number) * thousands).bit_length()
            if power // thousands == int(number) and power != value:
                return power
    return None


def _text(key: str, given: Any) -> str:
    if isinstance(given, Typed):
        quoted = _unquoted(given)
        return str(given) if quoted is None else escaped(quoted)
    if isinstance(given, bool | float) or not isinstance(given, str | int):
        raise UserError(f"{key}={shortened(given)}; expected a text; put it in quotes")
    return escaped(str(given))


def structure_of(key: str, given: Any) -> Any:
    """What was typed for `key` as `structure` takes it; any other value as it is."""
    try:
        return structure(given) if isinstance(given, Typed) else given
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def structure(text: str) -> Any:
    """Lists and maps as they are written, with `Typed` in them, or a str that stood in quotes.

    Raises:
        UserError: a bracket or quote without the other.
    """
    text = text.strip()
    quoted = _unquoted(text)
    if quoted is not None:
        return quoted
    if text.startswith("[") and text.endswith("]"):
        return [structure(part) for part in _split(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        return dict(_pair(part, text) for part in _split(text[1:-1]))
    return Typed(text)


def _pair(part: str, text: str) -> tuple[str, Any]:
    key, *rest = _parts(part, ":")
    if not rest:
        raise UserError(f"found {part.strip()!r} in {text}; expected key:value between commas")
    return str(structure(key)), structure(":".join(rest))


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket or quote; none of an empty text."""
    return list(_parts(text, ",")) if text.strip() else []


def _parts(text: str, separator: str) -> Iterator[str]:
    closing, start, at = [], 0, 0
    while at < len(text):
        char = text[at]
        if char in "'\"" and text[:at].rstrip()[-1:] in ("", *"[{(:,"):  # else an apostrophe
            if (quoted := _QUOTED.match(text, at)) is None:
                raise UserError(f"found {text[at:]!r} without its closing quote; close it")
            at = quoted.end()
            continue
        if char in _CLOSING:
            closing.append(_CLOSING[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == separator and not closing:
            yield text[start:at]
            start = at + 1
        at += 1
    if closing:
        raise UserError(f"found {text!r} without its {closing[-1]!r}; close it or quote it")
    yield text[start:]


def _unquoted(text: str) -> str | None:
    """What stands in quotes; None where the whole text does not."""
    quoted = _QUOTED.fullmatch(text)
    return re.sub(r"\\([\\'\"])", r"\1", text[1:-1]) if quoted else None


def _is_interpolation(key: str, text: str) -> bool:
    if "${" not in text or _unquoted(text) is not None:
        return False
    try:
        OmegaConf.create([text])
    except OmegaConfBaseException as error:
        raise UserError(
            f"{key}={shortened(text)}; expected ${{KEY}} for what another key says; put it in "
            "quotes to keep it as it is"
        ) from error
    return True


def plainly(found: Any) -> Any:
    """A structure whose keys do not say what is in it: numbers that are spelled as such are."""
    if isinstance(found, dict):
        return {str(key): plainly(value) for key, value in found.items()}
    if isinstance(found, list):
        return [plainly(value) for value in found]
    if not isinstance(found, Typed):
        return escaped(found) if isinstance(found, str) else found
    if _PLAIN_INT.fullmatch(found):
        return int(found)
    if _PLAIN_FLOAT.fullmatch(found):
        return float(found)
    return {"null": None, "true": True, "false": False}.get(found, str(found))


def escaped(text: str) -> str:
    """A text that OmegaConf takes for what it is."""
    return _INTERPOLATION.sub(lambda match: match[1] * 2 + "\\${", text)


def shortened(given: Any) -> str:
    """A value in a message, of which it is not to be most."""
    text = "null" if given is None else str(given)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _expected(plain: Any, allowed: Allowed, kind: Any) -> str:
    is_optional = split_optional(kind)[1]
    if isinstance(plain, type) and issubclass(plain, Enum):
        return f"one of {', '.join([one.value for one in plain] + ['null'] * is_optional)}"
    if plain in (int, float):
        return in_words(plain, allowed, is_optional)
    names = {str: "a text ('' is an empty one)", bool: "true or false"}
    return names.get(plain, "a map" if get_origin(plain) is dict else "a list")
