import pytest

from sae_dist.harvest import Round, by_turns, round_of

LENGTHS = [10, 10, 7, 10, 10, 10, 10, 10, 10, 3]  # sequences of each unit
UNITS = [0, 2, 9]
PLACES = range(5)


def plan() -> list[Round]:
    """A round of five processes that go together, of which two have nothing to keep."""
    return [round_of(UNITS, LENGTHS, 4, place) for place in PLACES]


def test_those_that_go_together_harvest_a_unit_each() -> None:
    assert [this.unit for this in plan()] == [*UNITS, None, None]


def test_all_processes_have_as_many_passes_in_a_round() -> None:
    assert {len(this.batches) for this in plan()} == {3}
    assert all(not batch for this in plan() if this.unit is None for batch in this.batches)
    assert len(round_of([9], LENGTHS, 4, 0).batches) == 1


@pytest.mark.parametrize("others", [[], [0], [3, 9]])
def test_a_units_batches_are_the_same_in_every_company(others: list[int]) -> None:
    this = round_of([*others, 2], LENGTHS, 4, len(others))
    assert [batch for batch in this.batches if batch] == [range(4), range(4, 7)]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_each_process_begins_to_look_elsewhere_and_sees_all(world: int) -> None:
    looks = [by_turns([1, 4, 5, 6, 7, 9, 11, 12], rank, world) for rank in range(world)]
    assert all(sorted(look) == looks[0] for look in looks)
    assert len({look[0] for look in looks}) == world
    assert by_turns([], 0, world) == []
