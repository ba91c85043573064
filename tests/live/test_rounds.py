"""Which tokens make up which batch, from the text alone."""

from itertools import islice, pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.live import Round, RoundSizes, rounds
from tests.live.tiny import POSITIONS, SEQUENCES, text_units, write_text

LANES, LANE_TOKENS = 4, 10
SIZES = RoundSizes(LANES, first=2, most=8)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("live") / "text")


def found(text: Path, start_step: int = 0) -> "list[Round]":
    """The rounds of three epochs."""
    all_rounds = rounds(text_units(text).training, SIZES, LANE_TOKENS, start_step)
    return list(takewhile(lambda one: one.epoch < 3, all_rounds))


def test_training_and_held_out_units_are_the_text_cut_in_two(text: Path) -> None:
    units = text_units(text)
    training, held_out = list(units.training()), list(units.held_out())
    assert [unit.number for unit in held_out] == list(range(0, len(training + held_out), 5))
    assert len(held_out) >= 3
    numbers = sorted(unit.number for unit in training + held_out)
    assert numbers == list(range(len(numbers)))
    assert all(unit.ids_NS.shape == (SEQUENCES, POSITIONS) for unit in training + held_out)
    for unit, again in zip(training, text_units(text).training(), strict=True):
        assert np.array_equal(unit.ids_NS, again.ids_NS)


def test_no_more_of_the_text_is_read_than_was_asked_for(text: Path) -> None:
    units = text_units(text, num_tokens=7 * SEQUENCES * POSITIONS + 5)
    assert [unit.number for unit in units.training()] == [1, 2, 3, 4, 6]
    assert units.num_held_out == 2 * SEQUENCES


def test_rounds_deal_every_unit_once_an_epoch_and_begin_anew(text: Path) -> None:
    all_rounds = found(text)
    training = [unit.number for unit in text_units(text).training()]
    for epoch in range(3):
        numbers = [unit_numbers(one) for one in all_rounds if one.epoch == epoch]
        assert [len(each) for each in numbers[:2]] == ([8, 8] if epoch else [2, 2])
        dealt = sorted(number for each in numbers for number in each)
        assert dealt == training[: len(dealt)] and len(training) - len(dealt) < LANES
    assert [one.ends_epoch for one in all_rounds] == [
        one.epoch != after.epoch for one, after in pairwise(all_rounds)
    ] + [True]
    steps = np.cumsum([0, *(one.num_steps for one in all_rounds)])
    assert [one.first_step for one in all_rounds] == steps[:-1].tolist()


def unit_numbers(one: Round) -> set[int]:
    return {unit.number for lane in one.lanes for unit in lane.units}


@pytest.mark.parametrize(
    ("lanes", "first", "most", "sizes"),
    [
        (64, 4, 64, [4, 4, 8, 16, 32, 64, 64]),
        (64, 1, 256, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256]),
        (6, 4, 24, [6, 6, 12, 24, 24]),  # 4 units cannot be dealt to 6 lanes
        (6, 2, 6, [2, 2, 3, 6, 6]),
        (3, 9, 9, [9, 9]),
    ],
)
def test_a_round_is_as_large_as_all_before_it_up_to_the_most(
    lanes: int, first: int, most: int, sizes: list[int]
) -> None:
    assert list(islice(RoundSizes(lanes, first, most).of(0), len(sizes))) == sizes
    assert list(islice(RoundSizes(lanes, first, most).of(1), 2)) == [most, most]


@pytest.mark.parametrize("num_units", [1, 2, 4, 8])
def test_lanes_share_all_trainable_tokens_of_a_rounds_units(text: Path, num_units: int) -> None:
    units = list(islice(text_units(text).training(), num_units))
    lanes = SIZES.deal(units)
    given = [
        (lane.units[row // POSITIONS // SEQUENCES].number, row % (POSITIONS * SEQUENCES))
        for lane in lanes
        for row in lane.trainable()
    ]
    assert len(given) == len(set(given)) == sum(unit.trainable_NS.sum() for unit in units)
    counts = [len(lane.trainable()) for lane in lanes]
    assert len(lanes) == LANES and max(counts) - min(counts) <= num_units


def test_a_lane_gives_its_trainable_tokens_once_in_another_order_each_epoch(text: Path) -> None:
    orders = []
    for one in (one for one in found(text) if one.epoch and one.number == 1):
        trainable = np.concatenate([unit.trainable_NS.ravel() for unit in one.lanes[1].units])
        rows_TB = one.rows(1, LANE_TOKENS, seed=3)
        assert rows_TB.shape == (one.num_steps, LANE_TOKENS)
        assert trainable[rows_TB].all()
        assert len(np.unique(rows_TB)) == rows_TB.size > trainable.sum() - 2 * LANE_TOKENS
        assert not np.array_equal(rows_TB, one.rows(1, LANE_TOKENS, seed=4))
        orders.append(rows_TB)
    assert not np.array_equal(orders[0], orders[1])


def test_any_step_is_found_from_its_round_on(text: Path) -> None:
    all_rounds = found(text)
    for step in range(all_rounds[-1].first_step + 1):
        first = found(text, step)[0]
        assert first.first_step <= step < first.first_step + first.num_steps
        (same,) = (one for one in all_rounds if one.first_step == first.first_step)
        assert (first.epoch, first.number) == (same.epoch, same.number)


def test_whole_epochs_are_skipped_without_being_read(text: Path) -> None:
    first, second = (
        sum(one.num_steps for one in found(text) if one.epoch == epoch) for epoch in (0, 1)
    )
    start_step = first + 999 * second
    read = []

    def units():
        read.append(1)
        return text_units(text).training()

    (one,) = islice(rounds(units, SIZES, LANE_TOKENS, start_step), 1)
    assert (one.epoch, one.first_step) == (1000, start_step)
    assert len(read) == 3


def test_too_little_text_is_told_in_one_line(text: Path) -> None:
    with pytest.raises(UserError, match=r"does not give 4 lanes 100000 tokens each; expected one"):
        next(rounds(text_units(text).training, SIZES, 100_000))
    with pytest.raises(UserError, match=r"harvest.tokens=31; expected at least 32, one pass"):
        text_units(text, num_tokens=31)
    with pytest.raises(UserError, match=r"held_out=0.7; expected at most half"):
        text_units(text, held_out=0.7)
