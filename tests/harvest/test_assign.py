import pytest

from sae_dist.harvest import Round, round_of

LENGTHS = [10, 10, 7, 10, 10, 10, 10, 10, 10, 3]  # sequences of each unit
UNITS = [0, 2, 9]
PLACES = range(5)


def plan() -> list[Round]:
    """A round of five processes that go together, of which two have nothing to keep."""
    return [round_of({unit: LENGTHS[unit] for unit in UNITS}, 4, place) for place in PLACES]


def test_those_that_go_together_harvest_a_unit_each() -> None:
    assert [this.unit for this in plan()] == [*UNITS, None, None]


def test_all_processes_have_as_many_passes_in_a_round() -> None:
    assert {len(this.batches) for this in plan()} == {3}
    assert all(not batch for this in plan() if this.unit is None for batch in this.batches)
    assert len(round_of({9: 3}, 4, 0).batches) == 1


@pytest.mark.parametrize("others", [[], [0], [3, 9]])
def test_a_units_batches_are_the_same_in_every_company(others: list[int]) -> None:
    taken = {unit: LENGTHS[unit] for unit in [*others, 2]}
    this = round_of(taken, 4, len(others))
    assert [batch for batch in this.batches if batch] == [range(4), range(4, 7)]
