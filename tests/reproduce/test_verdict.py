import pytest

from examples.reproduce.verdict import Claim, Evaluation, Verdict, measured, summarise


@pytest.mark.parametrize(
    ("values", "bound", "verdict"),
    [
        ((1.0, 1.1, 0.9), 0.0, Verdict.holds),
        ((-1.0, -1.1, -0.9), 0.0, Verdict.opposite),
        ((1.0, 1.1, 0.9), 2.0, Verdict.opposite),
        ((-0.5, -0.4, -0.6), -1.0, Verdict.holds),
        ((1.0, 1.1, -0.1), 0.0, Verdict.unclear),  # one seed says otherwise
        ((5.0, 0.1, 0.1), 0.0, Verdict.unclear),  # the spread is larger than the mean
        ((0.0, 0.0, 0.0), 0.0, Verdict.unclear),
        ((1.0,), 0.0, Verdict.one_seed),  # which has no spread
    ],
)
def test_what_counts_as_holding(values: tuple[float, ...], bound: float, verdict: Verdict) -> None:
    assert measured("", values, bound).verdict is verdict


def test_mean_and_deviation_are_over_seeds() -> None:
    found = measured("", (1.0, 2.0, 3.0))
    assert (found.mean, found.deviation, found.seeds) == (2.0, 1.0, 3)
    assert measured("", (1.0,)).deviation is None


def test_a_claim_gathers_each_effect_over_the_evaluations_that_have_it() -> None:
    def measure(evaluation: Evaluation) -> dict[str, float]:
        return dict(evaluation)

    claim = Claim("", "", "", "", "", measure, bound=1.5)
    found = claim.over([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert found == [measured("a", (1.0, 3.0), 1.5), measured("b", (2.0,), 1.5)]


def test_a_claim_holds_only_where_all_its_effects_do() -> None:
    yes, no, unclear = (measured("", v) for v in ((1.0, 1.1), (-1.0, -1.1), (1.0, -1.0)))
    assert summarise([yes, yes]) == "holds"
    assert summarise([yes, no, unclear]) == "holds in 1 of 3 (1 opposite, 1 unclear)"
    assert summarise([no, unclear]) == "does not hold (1 opposite, 1 unclear)"
    assert summarise([unclear, unclear]) == "unclear"
    assert summarise([]) == "not measured"


def test_one_seed_says_which_way_effects_point_and_no_more() -> None:
    up, down = measured("", (1.0,)), measured("", (-1.0,))
    assert summarise([up, down, up]) == "as published in 2 of 3 (one seed, no verdict)"
    assert summarise([up, measured("", (1.0, 1.1))]) == "holds in 1 of 2 (1 one seed)"
