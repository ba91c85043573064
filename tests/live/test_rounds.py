"""Which tokens make up which batch, from the text alone."""

from itertools import islice, pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.live import Round, rounds
from tests.live.tiny import POSITIONS, SEQUENCES, text_units, write_text

LANES, LANE_UNITS, LANE_TOKENS = 3, 2, 10


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("live") / "text")


def found(text: Path, start_step: int = 0, lane_units: int = LANE_UNITS) -> "list[Round]":
    """The rounds of two epochs and a half."""
    units = text_units(text).training
    all_rounds = rounds(units, LANES, lane_units, LANE_TOKENS, start_step)
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
        dealt = [
            unit.number
            for one in all_rounds
            if one.epoch == epoch
            for lane in one.lanes
            for unit in lane
        ]
        assert sorted(dealt) == training[: len(training) // LANES * LANES]
    assert [one.ends_epoch for one in all_rounds] == [
        one.epoch != after.epoch for one, after in pairwise(all_rounds)
    ] + [True]
    steps = np.cumsum([0, *(one.num_steps for one in all_rounds)])
    assert [one.first_step for one in all_rounds] == steps[:-1].tolist()


def test_a_lane_gives_its_trainable_tokens_once_in_another_order_each_epoch(text: Path) -> None:
    orders = []
    for one in (one for one in found(text) if one.number == 0):
        trainable = np.concatenate([unit.trainable_NS.ravel() for unit in one.lanes[1]])
        rows_TB = one.rows(1, LANE_TOKENS, seed=3)
        assert rows_TB.shape == (one.num_steps, LANE_TOKENS)
        assert trainable[rows_TB].all()
        assert len(np.unique(rows_TB)) == rows_TB.size > trainable.sum() - 2 * LANE_TOKENS
        orders.append(rows_TB)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], found(text)[0].rows(1, LANE_TOKENS, seed=4))


def test_any_step_is_found_from_its_round_on(text: Path) -> None:
    all_rounds = found(text)
    for step in range(all_rounds[-1].first_step + 1):
        first = found(text, step)[0]
        assert first.first_step <= step < first.first_step + first.num_steps
        (same,) = (one for one in all_rounds if one.first_step == first.first_step)
        assert (first.epoch, first.number) == (same.epoch, same.number)


def test_whole_epochs_are_skipped_without_being_read(text: Path) -> None:
    per_epoch = sum(one.num_steps for one in found(text) if one.epoch == 0)
    read = []

    def units():
        read.append(1)
        return text_units(text).training()

    (one,) = islice(rounds(units, LANES, LANE_UNITS, LANE_TOKENS, 1000 * per_epoch), 1)
    assert (one.epoch, one.first_step) == (1000, 1000 * per_epoch)
    assert len(read) == 2


def test_too_little_text_is_told_in_one_line(text: Path) -> None:
    with pytest.raises(UserError, match=r"does not give 3 lanes 100000 tokens each; expected one"):
        next(rounds(text_units(text).training, LANES, LANE_UNITS, 100_000))
    with pytest.raises(UserError, match=r"harvest.tokens=31; expected at least 32, one pass"):
        text_units(text, num_tokens=31)
    with pytest.raises(UserError, match=r"held_out=0.7; expected at most half"):
        text_units(text, held_out=0.7)
