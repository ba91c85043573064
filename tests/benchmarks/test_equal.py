"""Comparing at equal L0: the search for runs on both sides of a target, and what lies between."""

import math

import pytest

from benchmarks.equal import Lever, next_aim, value_at

TARGET, PENALTY = Lever(8.0, is_rising=True), Lever(1.0, is_rising=False)


def run(aim: float, l0: float, fvu: float = 0.1) -> dict[str, float]:
    return {"aim": aim, "l0": l0, "fvu": fvu}


def test_the_first_aim_is_the_levers() -> None:
    assert next_aim([], 8.0, TARGET) == 8.0


@pytest.mark.parametrize(
    ("lever", "l0_of"),
    [
        (TARGET, lambda aim: 1.4 * aim),
        (TARGET, lambda aim: 0.5 * aim + 1),
        (PENALTY, lambda aim: 40 / aim),
        (PENALTY, lambda aim: 3 / math.sqrt(aim)),
    ],
)
def test_the_search_ends_with_runs_around_the_target(lever, l0_of) -> None:
    runs: list[dict] = []
    while (aim := next_aim(runs, 8.0, lever)) is not None:
        runs.append(run(aim, l0_of(aim)))
        assert len(runs) <= 6
    assert value_at(runs, 8.0) is not None


def test_a_run_close_to_the_target_needs_no_second() -> None:
    assert next_aim([run(8.0, 8.05)], 8.0, TARGET) is None
    assert value_at([run(8.0, 8.05, fvu=0.3)], 8.0) == 0.3


def test_a_coder_without_active_latents_is_searched_on() -> None:
    aim = next_aim([run(1.0, 0.0)], 8.0, PENALTY)
    assert aim is not None and 0 < aim < 1


def test_between_two_runs_fvu_is_on_a_line_in_logarithms() -> None:
    runs = [run(0, 4.0, fvu=0.4), run(0, 16.0, fvu=0.1), run(0, 64.0, fvu=0.01)]
    assert value_at(runs, 8.0) == pytest.approx(0.2)
    assert value_at(runs, 16.0) == 0.1


def test_on_one_side_of_the_target_there_is_no_figure() -> None:
    assert value_at([run(0, 9.0), run(0, 10.0)], 8.0) is None
    assert value_at([], 8.0) is None
