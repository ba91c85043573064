"""Published suites by short names: `published:SUITE/CODER` is an address on the Hub.

    published:gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82
    published:qwen-scope-3-1.7b-base-w32k-l50/layer12

`suites.toml` lists them all; whether the Hub still has a coder, the Hub alone can say.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from sae_dist.common.errors import UserError

PUBLISHED = "published:"
_LIST = "suites.toml"
_BRACES, _RANGE = re.compile(r"\{([^{}]*)\}"), re.compile(r"(\d+)\.\.(\d+)")
_MOST_NEAR = 3


def suite_names() -> list[str]:
    """All of them."""
    return list(_suites())


def starts() -> list[str]:
    """How the addresses of all suites begin, for shells to complete."""
    return [f"{PUBLISHED}{name}/" for name in suite_names()]


@cache
def coders_in(suite: str) -> tuple[str, ...]:
    """The names of a suite's coders; UserError, with the nearest, where no suite is so called."""
    if suite not in _suites():
        raise UserError(
            f"found no published suite {suite!r:.80}; expected one of {len(_suites())}"
            f"{_near(suite, suite_names())}; they are in docs/interop.md, others on the Hub have "
            "addresses hub:USER/REPO/FOLDER"
        )
    return tuple(name for pattern in _suites()[suite]["coders"] for name in _expanded(pattern))


def address_of(where: str) -> str:
    """The address on the Hub, `hub:USER/REPO/PLACE`, of `published:SUITE/CODER`, with `@REVISION`.

    Raises:
        UserError: no suite, or none of its coders, is so called; with the nearest that are.
    """
    name, _, revision = where.removeprefix(PUBLISHED).partition("@")
    suite, _, coder = name.partition("/")
    known = coders_in(suite)
    if coder not in known:
        inside = [one for one in known if one.startswith(f"{coder}/")] if coder else known
        near = _near(coder, inside or known)
        raise UserError(
            f"found no coder {coder!r:.80} in {suite}; expected one of its {len(known)}{near}"
        )
    about = _suites()[suite]
    place = about.get("path", "{}").format(coder)
    return f"hub:{about['repo']}/{place}" + (f"@{revision}" if revision else "")


@cache
def _suites() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files(__package__).joinpath(_LIST).read_text(encoding="utf-8"))


def _expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for: `a_{1..3}{,_x}` for a_1, a_1_x, a_2, …."""
    parts = _BRACES.split(pattern)  # what is in braces stands at odd places
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return map("".join, itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    if ends := _RANGE.fullmatch(inside):
        return [str(number) for number in range(int(ends[1]), int(ends[2]) + 1)]
    return inside.split(",")


def _near(name: str, known: Sequence[str]) -> str:
    """The end of a line that names the nearest; the first ones where none is near."""
    near = get_close_matches(name, known, n=_MOST_NEAR)
    return f"; did you mean {', '.join(near)}?" if near else f", as {', '.join(known[:_MOST_NEAR])}"
