from itertools import islice

import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.stream import ActivationsInMemory, BatchPart, HeldOutPart, StreamConfig, StreamState

NUM_ROWS, BATCH = 50, 12
STEPS_PER_EPOCH = NUM_ROWS // BATCH
ROWS = torch.randn(NUM_ROWS, 3, generator=torch.Generator().manual_seed(0))


def source() -> ActivationsInMemory:
    return ActivationsInMemory("w", ROWS, "identity", {})


def indices(world: int, num: int, start_step: int = 0, seed: int = 1) -> torch.Tensor:
    """The rows of global batches [num, batch], put together from what each rank is given."""
    parts = []
    for rank in range(world):
        part = BatchPart(BATCH, seed, StreamConfig(), rank, world, start_step)
        with source().batches(["w"], part) as batches:
            found = list(islice(batches, num))
        assert [state.step for _, state in found] == [start_step + n + 1 for n in range(num)]
        for batch, _ in found:
            assert torch.equal(batch.acts["w"], ROWS[batch.index])
        parts.append(torch.stack([batch.index for batch, _ in found]))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("world", [2, 3, 12])
def test_every_world_sees_the_same_global_batches(world: int) -> None:
    assert torch.equal(indices(world, 10), indices(1, 10))


def test_an_epoch_gives_every_row_at_most_once_and_each_epoch_anew() -> None:
    batches = indices(1, 3 * STEPS_PER_EPOCH)
    epochs = batches.view(3, -1)
    assert all(len(epoch.unique()) == STEPS_PER_EPOCH * BATCH for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(batches, indices(1, 3 * STEPS_PER_EPOCH, seed=2))


@pytest.mark.parametrize("start", [1, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, 9])
def test_starting_at_a_step_is_skipping_those_before(start: int) -> None:
    assert torch.equal(indices(2, 5, start), indices(1, start + 5)[start:])


def test_iterating_again_goes_on_and_states_name_the_next_batch() -> None:
    stream = source().batches(["w"], BatchPart(BATCH, 1, StreamConfig()))
    first, second = list(islice(stream, 3)), list(islice(stream, 2))
    assert torch.equal(torch.stack([b.index for b, _ in first + second]), indices(1, 5))
    assert second[0][1] == StreamState(step=4, epoch=1)
    assert stream.waited_seconds > 0


@pytest.mark.parametrize("max_sequences", [None, 7, 5000])
def test_evaluation_reads_all_rows(max_sequences: int | None) -> None:
    expected = ROWS[:max_sequences]
    for parts in (1, 3, 20):
        found = {
            int(batch.sequences[0]): batch
            for part in range(parts)
            for batch in source().held_out(["w"], HeldOutPart(part, parts, max_sequences, 8))
        }
        rows = torch.cat([found[first].acts["w"] for first in sorted(found)])
        assert torch.equal(rows, expected[:, None])
        assert all(batch.trainable.all() for batch in found.values())
    assert (source().num_held_out, source().sequence_length) == (NUM_ROWS, 1)


def test_a_sample_and_the_mean_square_are_of_all_rows() -> None:
    sample = source().sample(["w"], 10**6, seed=0)["w"]
    assert sorted(sample.tolist()) == sorted(ROWS.tolist())
    assert torch.equal(source().sample(["w"], 9, seed=0)["w"], sample[:9])
    assert source().mean_square("w") == pytest.approx(float(ROWS.square().sum(1).mean()))


def test_what_cannot_be_given_is_refused() -> None:
    for batch_tokens, world in ((51, 1), (12, 5)):
        with pytest.raises(UserError, match=f"batch_tokens={batch_tokens} for 50 rows and {world}"):
            source().batches(["w"], BatchPart(batch_tokens, 1, StreamConfig(), 0, world))
    with pytest.raises(UserError, match="no site 'x'; there is only 'w'"):
        source().sample(["x"], 3, 0)
