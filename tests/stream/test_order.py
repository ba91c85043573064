from itertools import islice

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.stream.order import TokenOrder, largest_bucket, spread_evenly

UNITS = np.repeat(np.arange(8), [9, 7, 8, 9, 1, 8, 9, 10])
ROWS = np.where(np.diff(UNITS, append=8), 5, 20)  # a unit's last chunk has fewer
STARTS = np.concatenate([[0], np.cumsum(ROWS)])
BATCH, BUCKET = 48, 300
EPOCH = int(ROWS.sum()) // BATCH


def order(seed: int = 3, bucket: int = BUCKET) -> TokenOrder:
    return TokenOrder(ROWS, UNITS, BATCH, bucket, seed)


def batches(order: TokenOrder, step: int, num_steps: int, world: int = 1) -> np.ndarray:
    """Tokens of global batches [steps, batch], put together from what each rank serves."""
    ranks = []
    for rank in range(world):
        part, found = slice(rank * BATCH // world, (rank + 1) * BATCH // world), []
        for share in order.shares(step, part):
            tokens = np.concatenate([np.arange(STARTS[c], STARTS[c + 1]) for c in share.chunks])
            found.extend(tokens[rows] for rows in share.rows)
            if len(found) >= num_steps:
                break
        ranks.append(np.stack(found[:num_steps]))
    return np.hstack(ranks)


@pytest.mark.parametrize("world", [3, 5, 6, 12, 48])
def test_any_number_of_ranks_gives_the_same_global_batches(world: int) -> None:
    assert np.array_equal(batches(order(), 7, 60, world), batches(order(), 7, 60))


def test_an_epoch_gives_every_token_at_most_once_and_drops_less_than_a_batch() -> None:
    assert order().steps_in_epoch == EPOCH
    for epoch in range(3):
        tokens = batches(order(), epoch * EPOCH, EPOCH)
        assert tokens.size == len(np.unique(tokens)) > ROWS.sum() - BATCH


def test_a_rank_reads_its_part_and_the_rest_of_two_chunks() -> None:
    for rank in range(6):
        part = slice(rank * BATCH // 6, (rank + 1) * BATCH // 6)
        for share in islice(order().shares(0, part), 20):
            own = np.unique(share.rows)
            assert own.size == share.rows.size and share.rows.shape[1] == BATCH // 6
            assert np.array_equal(own, np.arange(own[0], own[0] + own.size))
            rows = ROWS[share.chunks]
            assert own[0] < rows[0] and rows.sum() - rows[-1] <= own[-1] < rows.sum()


def test_a_batch_has_one_row_of_each_group_of_neighbours() -> None:
    share = next(order().shares(0, slice(0, BATCH)))
    num_steps = len(share.rows)
    assert num_steps in (5, 6) and largest_bucket(int(ROWS.sum()), BATCH, BUCKET) == 6
    offset = share.rows.min()
    assert ((share.rows - offset) // num_steps == np.arange(BATCH)).all()
    assert len(np.unique(share.rows[:, 0])) == num_steps


def test_any_step_is_reached_without_those_before() -> None:
    expected = batches(order(), 0, EPOCH + 20)
    for step in (1, 7, EPOCH - 1, EPOCH, EPOCH + 1):
        found = batches(order(), step, EPOCH + 20 - step)
        assert np.array_equal(found, expected[step:])


def test_a_step_is_located_in_its_epoch() -> None:
    steps = (0, EPOCH - 1, EPOCH, 2 * EPOCH)
    assert [order().locate(step) for step in steps] == [(0, 0), (0, EPOCH - 1), (1, 0), (2, 0)]


def test_epochs_and_seeds_differ() -> None:
    assert not np.array_equal(batches(order(), 0, 5), batches(order(), EPOCH, 5))
    assert not np.array_equal(batches(order(), 0, 5), batches(order(seed=4), 0, 5))


def test_the_chunks_of_a_unit_are_spread_over_the_epoch() -> None:
    units = np.repeat(np.arange(20), 50)
    found = spread_evenly(units, np.random.default_rng(0))
    assert sorted(found) == list(range(1000))
    for tenth in np.split(units[found], 10):
        assert np.bincount(tenth, minlength=20).min() >= 3
        assert np.bincount(tenth, minlength=20).max() <= 7


def test_buckets_are_alike_and_hold_what_was_asked_for_at_most() -> None:
    sizes = [len(share.rows) for share in islice(order().shares(0, slice(0, BATCH)), 9)]
    assert max(sizes) - min(sizes) <= 1 and max(sizes) * BATCH <= BUCKET
    assert {len(s.rows) for s in islice(order(bucket=1).shares(0, slice(0, 1)), 9)} == {1}
    assert len(next(order(bucket=10**9).shares(0, slice(0, 1))).rows) == EPOCH


@pytest.mark.parametrize("batch_tokens", [0, int(ROWS.sum()) + 1])
def test_what_cannot_fill_a_batch_is_refused(batch_tokens: int) -> None:
    with pytest.raises(UserError, match=f"found {ROWS.sum()} training tokens; expected at least"):
        TokenOrder(ROWS, UNITS, batch_tokens, BUCKET, 0)
