import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.store import Store, write_store
from sae_dist.stream import (
    ActivationStream,
    Batch,
    BatchPart,
    StreamConfig,
    StreamState,
    memory_bound,
)
from sae_dist.stream.stream import Bucket

BATCH = 32
CONFIG = StreamConfig(read_threads=2, batches_ahead=3)


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9 batches, so that an epoch has several."""
    monkeypatch.setattr(BatchPart, "bucket_tokens", 9 * BATCH)


def part(rank: int = 0, world: int = 1, start_step: int = 0) -> BatchPart:
    return BatchPart(BATCH, 5, CONFIG, rank, world, start_step, with_index=True)


def stream(store: Store, rank: int = 0, world: int = 1, start_step: int = 0) -> ActivationStream:
    return ActivationStream(store, ["in", "out"], part(rank, world, start_step))


def take(source: ActivationStream, num: int) -> list[tuple[Batch, StreamState]]:
    with source:
        return list(islice(source, num))


def global_indices(store: Store, world: int, num: int, start_step: int = 0) -> torch.Tensor:
    ranks = [take(stream(store, rank, world, start_step), num) for rank in range(world)]
    return torch.stack([torch.cat([rank[i][0].index for rank in ranks]) for i in range(num)])


def own_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("sae-")]


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> object:
    yield
    assert own_threads() == []


@pytest.mark.parametrize("world", [3, 6, 12, 48])
def test_every_world_sees_the_same_global_batches(store: Store, world: int) -> None:
    expected = global_indices(store, 1, 20)
    found = global_indices(store, world, 20)
    assert torch.equal(found, expected)
    ids = store.read_tokens(range(400))[0].ravel()[found.numpy()]
    assert np.array_equal(ids, expected.numpy() + 7)


def test_rows_are_those_of_the_index_at_every_site(store: Store, acts: torch.Tensor) -> None:
    for batch, _ in take(stream(store, 1, 2), 60):
        assert batch.acts["in"].dtype == torch.bfloat16 and len(batch.index) == BATCH // 2
        assert torch.equal(batch.acts["in"], acts.flatten(0, 1)[batch.index])
        assert torch.equal(batch.acts["out"], batch.acts["in"][:, :3] * 2)


def test_a_batch_tells_its_index_only_if_asked(store: Store) -> None:
    silent = ActivationStream(store, ["in"], BatchPart(BATCH, 5, CONFIG))
    for (found, _), (expected, _) in zip(take(silent, 5), take(stream(store), 5), strict=True):
        assert found.index is None and torch.equal(found.acts["in"], expected.acts["in"])


def test_an_epoch_gives_trainable_training_tokens_once_each(
    store: Store, trainable: torch.Tensor
) -> None:
    source = stream(store)
    num_steps = source.tokens_per_epoch // BATCH
    found = take(source, num_steps)
    assert [state.epoch for _, state in found] == [0] * (num_steps - 1) + [1]
    index = torch.cat([batch.index for batch, _ in found])
    allowed = trainable.clone()
    for run in store.held_out:
        allowed[run.start : run.stop] = False
    assert len(index.unique()) == len(index) == source.tokens_per_epoch
    assert allowed.flatten()[index].all()
    assert len(index) > int(allowed.sum()) - BATCH


@pytest.mark.parametrize("ahead", [-1, 0, 1, 17])
def test_starting_at_a_step_is_skipping_those_before(store: Store, ahead: int) -> None:
    epoch = stream(store).tokens_per_epoch // BATCH
    expected = global_indices(store, 1, epoch + 40)
    start = epoch + ahead
    assert torch.equal(global_indices(store, 1, 20, start), expected[start : start + 20])


def test_states_name_the_next_batch(store: Store) -> None:
    source = stream(store, start_step=4)
    assert source.state_at(4) == StreamState(step=4, epoch=0)
    assert [state.step for _, state in take(source, 3)] == [5, 6, 7]


def test_iterating_again_goes_on_where_it_stopped(store: Store) -> None:
    source = stream(store)
    first, second = take(source, 3), take(source, 3)
    expected = take(stream(store), 6)
    for (found, state), (batch, wanted) in zip(first + second, expected, strict=True):
        assert torch.equal(found.index, batch.index) and state == wanted
    assert source.waited_seconds > 0


def test_unknown_sites_and_impossible_settings_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="no site 'mid'"):
        ActivationStream(store, ["mid"], BatchPart(BATCH, 5, CONFIG))
    with pytest.raises(UserError, match=r"stream\.lanes=4 for a store; expected lanes with"):
        ActivationStream(store, ["in"], BatchPart(BATCH, 5, StreamConfig(lanes=4)))
    with pytest.raises(UserError, match=r"stream\.read_threads=0"):
        ActivationStream(store, ["in"], BatchPart(BATCH, 5, StreamConfig(read_threads=0)))


def test_no_thread_is_left_when_the_iterator_is_dropped(store: Store) -> None:
    batches = iter(stream(store))
    next(batches)
    assert own_threads() != []
    del batches
    assert own_threads() == []


def test_no_thread_is_left_when_the_consumer_raises(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), stream(store) as batches:
        for _ in batches:
            raise ZeroDivisionError


def test_no_thread_is_started_before_the_first_batch(store: Store) -> None:
    iter(stream(store))
    assert own_threads() == []


def test_closing_twice_ends_the_iteration(store: Store) -> None:
    source = stream(store)
    batches = iter(source)
    next(batches)
    source.close()
    source.close()
    assert next(batches, None) is None


def test_closing_from_another_thread_ends_a_consumer_without_an_error(store: Store) -> None:
    for _ in range(20):
        source = stream(store)
        batches = iter(source)
        next(batches)
        with ThreadPoolExecutor(1) as pool:
            consumed = pool.submit(lambda batches=batches: sum(1 for _ in batches))
            source.close()
            assert consumed.result() >= 0


def test_two_iterations_at_once_are_refused(store: Store) -> None:
    with stream(store) as source:
        first = iter(source)
        next(first)
        with pytest.raises(RuntimeError, match="already"):
            next(iter(source))


def test_an_error_of_a_reading_thread_reaches_the_consumer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(site: str, chunk: int, out: np.ndarray) -> None:
        raise UserError(f"chunk {chunk} damaged")

    monkeypatch.setattr(store, "read_rows_into", fail)
    with pytest.raises(UserError, match="damaged"):
        take(stream(store), 1)


def test_the_memory_bound_counts_places_orders_batches_and_reads(store: Store) -> None:
    row, chunk, num_chunks = 2 * (6 + 3) + 8, 20, -(-int(store.chunk_rows.sum()) // 20)
    for world in (1, 4):
        own = BATCH // world
        places = 2 * (9 * own + 2 * (chunk - 1)) * row
        orders = 9 * (16 * own + 12 * BATCH) + 64 * num_chunks
        reads = 2 * chunk * 6 * 2
        expected = places + orders + 5 * own * row + reads
        assert stream(store, 0, world).memory_bound == expected


def test_in_eight_bits_a_read_also_holds_the_stored_values_of_the_widest_site() -> None:
    exact, small = (
        memory_bound(1000, 20, {"in": 6, "out": 3}, dtype, part())
        for dtype in (FloatDtype.bfloat16, FloatDtype.int8)
    )
    assert small - exact == 2 * 20 * ((6 + 6 + 4) - 2 * 6)


def test_eight_bits_stream_what_they_give_back(
    tmp_path: Path, acts: torch.Tensor, trainable: torch.Tensor
) -> None:
    sizes: dict[str, Any] = {"trainable": trainable, "chunk_mib": 2**-13, "shard_mib": 2**-11}
    small = write_store(tmp_path / "small", {"in": acts}, dtype="int8", **sizes)
    source = ActivationStream(small, ["in"], part())
    for batch, _ in take(source, 30):
        x_BD = acts.flatten(0, 1)[batch.index].float()
        step_B1 = x_BD.abs().amax(1, keepdim=True) / 127
        off_BD = (batch.acts["in"].float() - x_BD).abs()
        assert (off_BD <= 0.51 * step_B1 + 2**-8 * x_BD.abs()).all()


def test_two_places_serve_all_buckets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    class Watched(Bucket):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            places.append(id(self.place))

    monkeypatch.setattr("sae_dist.stream.stream.Bucket", Watched)
    take(stream(store), 150)
    assert len(places) > 15 and len(set(places)) == 2 and len(set(places[::2])) == 1
