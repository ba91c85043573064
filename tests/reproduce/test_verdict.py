import pytest

from examples.reproduce.verdict import Claim, Evaluation, Measured, Verdict, summarise


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
        ((1.0,), 0.0, Verdict.unclear),  # one seed has no spread
    ],
)
def test_what_counts_as_holding(values: tuple[float, ...], bound: float, verdict: Verdict) -> None:
    assert Measured("", values, bound).verdict is verdict


def test_mean_and_deviation_are_over_seeds() -> None:
    measured = Measured("", (1.0, 2.0, 3.0))
    assert (measured.mean, measured.deviation) == (2.0, 1.0)
    assert Measured("", (1.0,)).deviation is None


def test_a_claim_gathers_each_effect_over_the_evaluations_that_have_it() -> None:
    def measure(evaluation: Evaluation) -> dict[str, float]:
        return dict(evaluation)

    claim = Claim("", "", "", "", "", measure, bound=1.5)
    found = claim.over([{"a": 1.0, "b": 2.0}, {"a": 3.0}])
    assert found == [Measured("a", (1.0, 3.0), 1.5), Measured("b", (2.0,), 1.5)]


def test_a_claim_holds_only_where_all_its_effects_do() -> None:
    yes, no, unclear = (Measured("", v) for v in ((1.0, 1.1), (-1.0, -1.1), (1.0, -1.0)))
    assert summarise([yes, yes]) == "holds"
    assert summarise([yes, no, unclear]) == "holds in 1 of 3 (1 opposite, 1 unclear)"
    assert summarise([no, unclear]) == "does not hold (1 opposite, 1 unclear)"
    assert summarise([unclear, unclear]) == "unclear"
    assert summarise([]) == "not measured"
