from itertools import islice

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.stream.order import TokenOrder, fitting_lanes

ROWS = np.random.default_rng(0).integers(5, 40, 61)
STARTS = np.concatenate([[0], np.cumsum(ROWS)])
LANES, BATCH = 8, 32


def order(seed: int = 3) -> TokenOrder:
    return TokenOrder(ROWS, LANES, bucket_chunks=3, batch_tokens=BATCH, seed=seed)


def lane_tokens(order: TokenOrder, lane: int, step: int, num_steps: int) -> np.ndarray:
    """The tokens of one lane, numbered through all chunks, int64 [steps, share]."""
    tokens: list[int] = []
    for segment in order.segments(lane, step):
        of_bucket = np.concatenate([np.arange(STARTS[c], STARTS[c + 1]) for c in segment.chunks])
        tokens.extend(of_bucket[segment.rows][segment.first : segment.stop])
        if len(tokens) >= num_steps * order.lane_tokens:
            break
    return np.array(tokens[: num_steps * order.lane_tokens]).reshape(num_steps, -1)


def batches(order: TokenOrder, step: int, num_steps: int, world: int = 1) -> np.ndarray:
    """Global batches [steps, batch], put together from what each of `world` ranks serves."""
    ranks = [
        np.hstack([lane_tokens(order, lane, step, num_steps) for lane in lanes])
        for lanes in np.split(np.arange(LANES), world)
    ]
    return np.hstack(ranks)


def test_eight_ranks_and_one_give_the_same_global_batches() -> None:
    expected = batches(order(), 0, 80)
    for world in (2, 4, 8):
        assert np.array_equal(batches(order(), 0, 80, world), expected)


def test_an_epoch_gives_every_token_at_most_once_and_drops_only_tails() -> None:
    made = order()
    first = 0
    for epoch in range(3):
        steps = made.steps_in_epoch(epoch)
        tokens = batches(made, first, steps)
        assert tokens.size == len(np.unique(tokens)) == steps * BATCH
        for lane in range(LANES):
            plan = made.lane_plan(epoch, lane)
            dropped = plan.starts[-1] - steps * made.lane_tokens
            chunks = np.concatenate(plan.buckets)
            whole = np.concatenate([np.arange(STARTS[c], STARTS[c + 1]) for c in chunks])
            given = lane_tokens(made, lane, first, steps).ravel()
            assert dropped >= 0 and len(np.setdiff1d(whole, given)) == dropped
        first += steps
    spare = [made.lane_plan(0, lane).starts[-1] // made.lane_tokens for lane in range(LANES)]
    assert min(spare) == made.steps_in_epoch(0)


def test_lanes_share_out_all_chunks_in_every_epoch() -> None:
    for epoch in range(3):
        dealt = [np.concatenate(order().lane_plan(epoch, lane).buckets) for lane in range(LANES)]
        assert sorted(np.concatenate(dealt)) == list(range(len(ROWS)))


def test_lanes_end_together_however_chunks_differ() -> None:
    """A last shard that is nearly empty is a fifth of the chunks; no more than 2 % is dropped."""
    rows = np.repeat([4096, 64], [512, 128])
    made = TokenOrder(rows, 64, bucket_chunks=4, batch_tokens=4096, seed=0)
    for epoch in range(3):
        assert made.steps_in_epoch(epoch) * 4096 > 0.98 * rows.sum()
    first = np.concatenate([made.lane_plan(0, lane).buckets[0] for lane in range(64)])
    assert 30 < (rows[first] == 64).sum() < 75  # they come at any time, not last


def test_any_step_is_reached_without_those_before() -> None:
    num_steps = order().steps_in_epoch(0) + 20
    expected = batches(order(), 0, num_steps)
    for step in (1, 7, num_steps - 21, num_steps - 20, num_steps - 19):
        assert np.array_equal(batches(order(), step, num_steps - step), expected[step:])


def test_a_step_is_located_in_its_epoch() -> None:
    made = order()
    first, second = made.steps_in_epoch(0), made.steps_in_epoch(1)
    assert [made.locate(s) for s in (0, first - 1, first, first + second)] == [
        (0, 0),
        (0, first - 1),
        (1, 0),
        (2, 0),
    ]


def test_epochs_and_seeds_differ() -> None:
    made = order()
    first = made.steps_in_epoch(0)
    assert not np.array_equal(batches(made, 0, 5), batches(made, first, 5))
    assert not np.array_equal(batches(made, 0, 5), batches(order(seed=4), 0, 5))


def test_a_bucket_is_given_from_start_to_end() -> None:
    segments = list(islice(order().segments(2, 0), 3))
    assert [segment.first for segment in segments] == [0, 0, 0]
    assert all(sorted(s.rows) == list(range(ROWS[s.chunks].sum())) for s in segments)


@pytest.mark.parametrize(
    ("rows", "lanes", "batch_tokens", "message"),
    [
        ([9] * 4, 8, 32, "at most 4"),
        ([9] * 9, 8, 33, "multiple of the lanes"),
        ([9] * 9, 0, 32, "lanes=0"),
        ([9] * 9, 8, 96, "81 training tokens"),
        ([90] * 7 + [1], 8, 32, "may get 1 token"),
    ],
)
def test_what_cannot_fill_a_batch_is_refused(
    rows: list[int], lanes: int, batch_tokens: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TokenOrder(np.array(rows), lanes, 2, batch_tokens, 0)


@pytest.mark.parametrize(
    ("rows", "batch", "lanes"),
    [
        ([200] * 1000, 4096, 64),  # as many as there are at most
        ([200] * 1000, 1000, 50),  # share a batch
        ([1000] * 20, 4096, 4),  # 8 would leave four chunks of an epoch unused
        ([3000, 3000, 10], 4096, 2),
        ([5000], 4096, 1),
    ],
)
def test_lanes_follow_from_chunks_and_batch(rows: list[int], batch: int, lanes: int) -> None:
    assert fitting_lanes(np.array(rows), batch) == lanes
    order = TokenOrder(np.array(rows), lanes, 1, batch, seed=0)
    assert order.steps_in_epoch(0) * batch >= 0.9 * sum(rows) - batch
