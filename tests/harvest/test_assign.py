import pytest

from sae_dist.harvest import Round, rounds

LENGTHS = [10, 10, 7, 10, 10, 10, 10, 10, 10, 3]  # sequences of each unit
MISSING = [0, 2, 3, 4, 5, 7, 9]
WORLDS = range(1, 9)


def plans(world: int) -> list[list[Round]]:
    return [list(rounds(MISSING, LENGTHS, 4, rank, world)) for rank in range(world)]


@pytest.mark.parametrize("world", WORLDS)
def test_every_missing_unit_is_harvested_once(world: int) -> None:
    units = [this.unit for plan in plans(world) for this in plan if this.unit is not None]
    assert sorted(units) == MISSING
    assert [this.unit for this in plans(world)[0]] == MISSING[::world]


@pytest.mark.parametrize("world", WORLDS)
def test_all_processes_have_as_many_passes_in_a_round(world: int) -> None:
    for same_round in zip(*plans(world), strict=True):
        passes = {len(this.batches) for this in same_round}
        needed = max(-(-LENGTHS[this.unit] // 4) for this in same_round if this.unit is not None)
        assert passes == {needed}
        assert all(not batch for this in same_round if this.unit is None for batch in this.batches)


@pytest.mark.parametrize("world", WORLDS)
def test_a_units_batches_are_the_same_in_every_world(world: int) -> None:
    for this in (this for plan in plans(world) for this in plan if this.unit is not None):
        batches = [batch for batch in this.batches if batch]
        length = LENGTHS[this.unit]
        assert batches == [range(s, min(s + 4, length)) for s in range(0, length, 4)]


def test_nothing_missing_is_nothing_to_do() -> None:
    assert list(rounds([], LENGTHS, 4, 0, 2)) == []
