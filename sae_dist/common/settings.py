"""What a setting may be: declared once, beside its field, and checked wherever it comes from.

    lr: float = setting(7e-5, above=0)
    num_latents: int = setting(16384, min=1, binary=True)
    clip_norm: float | None = setting(None, above=0)

`validate` looks at a whole configuration, whether it was typed or made in Python.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest

_KEY = "allowed"
_NUMBERS = (int, float)


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """The values that a setting, or each item of a list, may have; numbers are always finite.

    Attributes:
        min, max: ends that belong to a number's range.
        above, below: ends that do not.
        binary: K is 1,024 of what is counted, not 1,000.
        check: called with the key and a text; raises UserError for one that cannot be used.
        among: gives the texts that there are to choose from.
        begins: gives how a text may begin, for shells to complete; it may begin otherwise.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    binary: bool = False
    check: Callable[[str, str], None] | None = None
    among: Callable[[], list[str]] | None = None
    begins: Callable[[], list[str]] | None = None

    @property
    def has_range(self) -> bool:
        """Whether anything is said of a number."""
        return any(end is not None for end in (self.min, self.max, self.above, self.below))

    def __contains__(self, number: float) -> bool:
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """The range in words: `at least 1`, `0 to 1`, `more than 0 and below 1`."""
        if self.min is not None and self.max is not None:
            return f"{self.min} to {self.max}"
        ends = {
            "at least": self.min,
            "more than": self.above,
            "at most": self.max,
            "below": self.below,
        }
        return " and ".join(f"{word} {end}" for word, end in ends.items() if end is not None)


def setting(default: Any = MISSING, **allowed: Any) -> Any:
    """A dataclass' field with its default and what it may be: the attributes of `Allowed`."""
    is_list = isinstance(default, list)
    made: Any = {"default_factory": default.copy} if is_list else {"default": default}
    return field(metadata={_KEY: Allowed(**allowed)}, **made)


def allowed_in(declared: Field[Any]) -> Allowed:
    """What was said beside a field; anything, where nothing was."""
    return declared.metadata.get(_KEY, Allowed())


@cache
def kinds(schema: type) -> dict[str, Any]:
    """The annotated type of each field of a dataclass."""
    hints = get_type_hints(schema)
    return {declared.name: hints[declared.name] for declared in fields(schema)}


def split_optional(kind: Any) -> tuple[Any, bool]:
    """`T | None` as `(T, True)`, any other type as it is."""
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        if len(others) == 1:
            return others[0], True
    return kind, False


def validate(config: Any, prefix: str = "") -> None:
    """Check each value of a configuration, and of those inside it.

    Args:
        config: a dataclass whose fields may be declared with `setting`.
        prefix: what comes before its fields' names in a key: `coder.`.

    Raises:
        UserError: a number outside of its range or not finite, something else in its place, a text
            that its check refuses, or a list that is empty or holds something twice. The line
            names the key, what was given and what is allowed.
    """
    schema: Any = type(config)
    for declared in fields(config):
        key, value = prefix + declared.name, getattr(config, declared.name)
        if is_dataclass(value):
            validate(value, f"{key}.")
        elif isinstance(value, list) and any(map(is_dataclass, value)):
            for number, one in enumerate(value):
                validate(one, f"{key}[{number}].")
        else:
            require(key, value, kinds(schema)[declared.name], allowed_in(declared))


def require(key: str, value: Any, kind: Any, allowed: Allowed, given: str | None = None) -> None:
    """Check one value of a type; `given` is how it was typed. Raises as `validate` does."""
    kind, is_optional = split_optional(kind)
    if value is None and is_optional:
        return
    shown = given or str(value)
    if kind in _NUMBERS:
        is_number = isinstance(value, _NUMBERS if kind is float else int)
        if not is_number or isinstance(value, bool) or value - value != 0:  # inf, nan
            raise UserError(f"{key}={shown}; expected {in_words(kind, allowed, is_optional)}")
        if value not in allowed:
            raise UserError(f"{key}={shown}; expected {allowed}{', or null' * is_optional}")
    elif get_origin(kind) is list and (item := get_args(kind)[0]) in (str, *_NUMBERS):
        if not isinstance(value, list) or not value or len(set(value)) < len(value):
            raise UserError(f"{key}={shown}; expected one or more different ones, as [a,b]")
        for one in value:
            require(key, one, item, allowed)
    elif kind is str and allowed.among is not None and value not in (names := allowed.among()):
        known = ", ".join(names + ["null"] * is_optional)
        raise UserError(f"{key}={shown}; expected one of {known}{nearest(str(value), names)}")
    elif kind is str and allowed.check is not None:
        allowed.check(key, value)


def in_words(kind: Any, allowed: Allowed, is_optional: bool) -> str:
    """What a number may be: `a whole number, at least 1, or null`."""
    name = "a whole number" if kind is int else "a number"
    return ", ".join(filter(None, (name, str(allowed), "or null" if is_optional else "")))
