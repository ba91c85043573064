import pytest

from sae_dist.common.declare import Write
from sae_dist.report import RunResults
from sae_dist.report.facts import facts, training_seconds
from sae_dist.report.numbers import duration, written


def test_training_time_adds_up_over_restarts() -> None:
    seconds = [1.0, 5.0, 9.0, 2.0, 6.0]
    metrics = [{"step": i, "rung": None, "seconds": value} for i, value in enumerate(seconds)]
    assert training_seconds(RunResults(name="run", metrics=metrics)) == 15.0
    assert training_seconds(RunResults(name="run")) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.6, "0 min 10 s"), (3599, "59 min 59 s"), (7320, "2 h 02 min")]
)
def test_durations_are_written_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_decimals_of_a_column_show_three_digits_of_the_least() -> None:
    assert written([0.0752, -0.00169, None], Write.NUMBER) == ["0.07520", "−0.00169", "–"]
    assert written([8.956, 16.0], Write.NUMBER) == ["8.96", "16.00"]
    assert written([1234.5, 60.25], Write.NUMBER) == ["1,234.5", "60.2"]
    assert written([4.40921929], Write.NUMBER) == ["4.409"]
    assert written([0.0], Write.NUMBER) == ["0.000"]
    assert written([1e-9, 0.5], Write.NUMBER) == ["1.0e−09", "0.500000"]
    assert written([0.0125, None], Write.PERCENT) == ["1.25\N{NARROW NO-BREAK SPACE}%", "–"]
    assert written([16384, None], Write.COUNT) == ["16,384", "–"]
    assert written([0.7], Write.SETTING) == ["0.7"]


def test_hashes_are_shortened_and_nested_facts_are_flat() -> None:
    store = {"manifest": "0a" * 32, "lm": {"name": "pythia", "sites": ["embed", 2]}, "dtype": None}
    found = facts(RunResults(name="run", about={"store": store}))
    assert found == [
        ("store: manifest", "0a0a0a0a0a0a…"),
        ("store: lm.name", "pythia"),
        ("store: lm.sites", "embed, 2"),
    ]


def test_skipped_steps_are_summed_over_rungs() -> None:
    metrics = [
        {"step": step, "rung": rung, "skipped_steps": count}
        for step, rung, count in [(0, "a", 0), (0, "b", 1), (1, "a", 2), (1, "b", 1)]
    ]
    assert ("steps skipped (not finite)", "3") in facts(RunResults(name="run", metrics=metrics))
