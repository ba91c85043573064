"""Every number of every command has a range, which is shown, and checked before anything runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import pytest

from sae_dist.apps import cli, console
from sae_dist.apps.help import help_text
from sae_dist.apps.keys import keys
from sae_dist.apps.overrides import Typed, read
from sae_dist.common.errors import UserError
from sae_dist.common.settings import Allowed, setting, split_optional, validate
from tests.apps.test_cli import GIVEN

NUMBERS = (int, float)


def number_of(kind: Any) -> Any:
    """`int` or `float` of such a type, an optional one or a list of them; None of any other."""
    plain, _ = split_optional(kind)
    (plain,) = get_args(plain) if get_origin(plain) is list else (plain,)
    return plain if plain in NUMBERS else None


def ends(kind: Any, allowed: Allowed) -> Iterator[tuple[Any, Any]]:
    """For each end of a range the last value inside and the first outside."""
    up, down = (
        (lambda x: x + 1, lambda x: x - 1)
        if kind is int
        else (lambda x: math.nextafter(x, math.inf), lambda x: math.nextafter(x, -math.inf))
    )
    for end, inside, outside in (
        (allowed.min, lambda x: x, down),
        (allowed.max, lambda x: x, up),
        (allowed.above, up, lambda x: x),
        (allowed.below, down, lambda x: x),
    ):
        if end is not None:
            yield inside(kind(end)), outside(kind(end))


SETTINGS = [
    (root, key, kind, allowed)
    for root in console.COMMANDS
    for key, (kind, allowed) in keys(root).items()
    if number_of(kind)
]


@pytest.mark.parametrize("root", console.COMMANDS)
def test_every_number_has_a_range_and_both_its_ends_are_taken(root: str) -> None:
    for _, key, kind, allowed in (one for one in SETTINGS if one[0] == root):
        number, is_list = number_of(kind), get_origin(split_optional(kind)[0]) is list
        assert allowed.has_range, f"{root}: {key}"
        for inside, outside in ends(number, allowed):
            assert read(key, Typed(repr(inside)), kind, allowed) == (
                [inside] if is_list else inside
            )
            for wrong in (outside, "nan", "inf", "-inf", "many", "[1,[2]]"):
                with pytest.raises(UserError, match=rf"^{key}.*expected") as raised:
                    read(key, Typed(wrong), kind, allowed)
                assert "\n" not in str(raised.value)


@pytest.mark.parametrize("root", console.COMMANDS)
def test_a_number_out_of_its_range_is_refused_with_its_key(root: str) -> None:
    for _, key, kind, allowed in (one for one in SETTINGS if one[0] == root):
        for _, outside in ends(number_of(kind), allowed):
            with pytest.raises(UserError, match=rf"^{key}={outside}; expected {allowed}"):
                list(cli._values(root, [(key, Typed(repr(outside)))], "", {}))


def test_there_are_settings_to_look_at() -> None:
    assert len(SETTINGS) > 60
    assert {root for root, *_ in SETTINGS} > {"train", "harvest", "evaluate", "plan", "verify"}


@pytest.mark.parametrize("root", console.COMMANDS)
def test_help_shows_each_range(root: str) -> None:
    choices = {"train": ["coder=topk", "optim=signum", "optim=muon"], "explain": ["judge=local"]}
    others = [[choice] for choice in choices.get(root, [])]
    shown = "\n".join(help_text(root, told) for told in ([], *others))
    for _, key, _, allowed in (one for one in SETTINGS if one[0] == root):
        name = key.rpartition(".")[2]
        assert any(
            line.strip().startswith(f"{name}:") and str(allowed) in line
            for line in shown.splitlines()
        ), key


@dataclass(kw_only=True, slots=True)
class Inner:
    share: float = setting(0.5, above=0, below=1)
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(kw_only=True, slots=True)
class Outer:
    count: int = setting(3, min=1, max=4)
    least: float | None = setting(None, min=0)
    inner: Inner = field(default_factory=Inner)


def test_a_configuration_made_in_python_is_checked_alike() -> None:
    validate(Outer(), "x.")
    for wrong, said in (
        (Outer(count=5), "x.count=5; expected 1 to 4"),
        (Outer(count=True), "x.count=True; expected a whole number, 1 to 4"),
        (Outer(count=1.5), "x.count=1.5; expected a whole number, 1 to 4"),
        (Outer(count=None), "x.count=None; expected a whole number, 1 to 4"),
        (Outer(least=-1), "x.least=-1; expected at least 0, or null"),
        (Outer(least=math.inf), "x.least=inf; expected a number, at least 0, or null"),
        (
            Outer(inner=Inner(share=math.nan)),
            "x.inner.share=nan; expected a number, more than 0 and below 1",
        ),
        (
            Outer(inner=Inner(names=[])),
            "x.inner.names=[]; expected one or more different ones, as [a,b]",
        ),
    ):
        with pytest.raises(UserError) as raised:
            validate(wrong, "x.")
        assert str(raised.value) == said


def test_every_default_is_in_its_range() -> None:
    for root in console.COMMANDS:
        validate(cli.to_dataclass(cli.compose_config(root, GIVEN[root])))


PARTS = ["sweep.grids=[{coder:topk,coder.k:[4,0]}]", "sweep.grids=[{optim.lr:nan}]"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (PARTS[0], r"^sweep.grids\[0\].coder.k=0; expected at least 1$"),
        (PARTS[1], r"^sweep.grids\[0\].optim.lr=nan; expected a number, more than 0$"),
        ("sweep.grids=[{coder.k:4},{coder:[topk,rule]}]", r"^sweep.grids\[1\].coder=rule; exp"),
        ("sweep.grids=[{coder.width:4}]", r"^found key sweep.grids\[0\].coder.width; expected"),
        ("sweep.grids=[{coder.k:[]}]", r"^sweep.grids\[0\].coder.k=\[\]; expected one value or"),
    ],
)
def test_a_sweep_is_checked_before_anything_runs(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        cli.compose("train", [*GIVEN["train"], given])


@pytest.mark.parametrize("part", ["harvest", "train"])
def test_another_command_s_part_is_checked_under_its_full_key(part: str) -> None:
    with pytest.raises(UserError, match=rf"^{part}\..*tokens=0; expected at least 1"):
        cli.compose(part, [*GIVEN[part], "tokens=0"], f"{part}.")
    with pytest.raises(UserError, match=rf"^found key {part}.tokenz; .*did you mean {part}.tokens"):
        cli.compose(part, [*GIVEN[part], "tokenz=0"], f"{part}.")
