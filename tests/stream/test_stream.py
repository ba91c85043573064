import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
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
from sae_dist.stream.buckets import Bucket

BATCH = 32
CONFIG = StreamConfig(lanes=8, bucket_tokens=300, read_threads=2, batches_ahead=3)


def stream(store: Store, rank: int = 0, world: int = 1, start_step: int = 0) -> ActivationStream:
    return ActivationStream(
        store, ["in", "out"], BatchPart(BATCH, 5, CONFIG, rank, world, start_step)
    )


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


@pytest.mark.parametrize("world", [2, 4, 8])
def test_every_world_sees_the_same_global_batches(store: Store, world: int) -> None:
    expected = global_indices(store, 1, 50)
    found = global_indices(store, world, 50)
    assert torch.equal(found, expected)
    ids = store.read_tokens(range(400))[0].ravel()[found.numpy()]
    assert np.array_equal(ids, expected.numpy() + 7)


def test_lanes_that_nobody_asked_for_do_not_depend_on_the_world(store: Store) -> None:
    ranks = [
        [
            take(
                ActivationStream(store, ["in"], BatchPart(BATCH, 5, StreamConfig(), rank, world)),
                40,
            )
            for rank in range(world)
        ]
        for world in (1, 4)
    ]
    whole, parts = (
        torch.cat([torch.cat([rank[step][0].index for rank in one]) for step in range(40)])
        for one in ranks
    )
    assert torch.equal(whole, parts)


def test_rows_are_those_of_the_index_at_every_site(store: Store, acts: torch.Tensor) -> None:
    for batch, _ in take(stream(store, 1, 2), 60):
        assert batch.acts["in"].dtype == torch.bfloat16 and len(batch.index) == BATCH // 2
        assert torch.equal(batch.acts["in"], acts.flatten(0, 1)[batch.index])
        assert torch.equal(batch.acts["out"], batch.acts["in"][:, :3] * 2)


@pytest.mark.parametrize(
    ("positions", "chunk_tokens", "grid"),
    [(6, 75, (19, 19, 3)), (6, 122, (19, 19, 6)), (7, 75, (19, 19, 1)), (6, 7, (14, 7, 1))],
)
def test_rows_are_those_of_the_index_however_chunks_are_cut(
    tmp_path: Path, positions: int, chunk_tokens: int, grid: tuple[int, int, int]
) -> None:
    x = torch.arange(113.0 * positions).view(113, positions, 1).expand(-1, -1, 2)
    sizes = {"chunk_mib": chunk_tokens * 8 / 2**20, "shard_mib": 20.5 * positions * 8 / 2**20}
    trainable = x[..., 0] % 7 != 0
    arguments = {"trainable": trainable, "held_out": 0.2, "dtype": "float32", **sizes}
    store = write_store(tmp_path / "store", {"x": x}, **arguments)  # type: ignore[arg-type]
    layout = store.layout
    assert (layout.shard_sequences, layout.chunk_sequences, layout.chunk_positions) == grid
    source = ActivationStream(
        store, ["x"], BatchPart(16, 5, StreamConfig(lanes=4, bucket_tokens=512))
    )
    found = take(source, source.tokens_per_epoch // 16)
    index = torch.cat([batch.index for batch, _ in found])
    rows = torch.cat([batch.acts["x"] for batch, _ in found])
    assert torch.equal(rows, index.float()[:, None].expand(-1, 2))
    assert len(index.unique()) == len(index) == source.tokens_per_epoch
    assert (index % 7 != 0).all()


def test_an_epoch_gives_trainable_training_tokens_once_each(
    store: Store, trainable: torch.Tensor
) -> None:
    source = stream(store)
    num_steps = source.tokens_per_epoch // BATCH
    found = take(source, num_steps)
    assert [state.epoch for _, state in found] == [0] * (num_steps - 1) + [1]
    index = torch.cat([batch.index for batch, _ in found])
    allowed = trainable.clone()
    for run in store.held_out_sequences():
        allowed[run.start : run.stop] = False
    assert len(index.unique()) == len(index) == source.tokens_per_epoch
    assert allowed.flatten()[index].all()
    assert len(index) > 0.8 * int(allowed.sum())


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


def test_a_world_that_does_not_divide_the_lanes_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="1, 2, 4, 8"):
        stream(store, 0, 3)


def test_unknown_sites_and_impossible_settings_are_refused(store: Store) -> None:
    with pytest.raises(UserError, match="no site 'mid'"):
        ActivationStream(store, ["mid"], BatchPart(BATCH, 5, CONFIG))
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

    monkeypatch.setattr(store, "read_chunk_into", fail)
    with pytest.raises(UserError, match="damaged"):
        take(stream(store), 1)


def test_tokens_that_differ_from_the_manifest_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.read_trainable
    monkeypatch.setattr(store, "read_trainable", lambda chunk: ~real(chunk))
    with pytest.raises(UserError, match="expected .* by the manifest"):
        take(stream(store), 1)


def test_the_memory_bound_counts_buckets_batches_and_marks(store: Store) -> None:
    row, chunk, bucket_chunks = 2 * (6 + 3), 20, 300 // (8 * 20)
    bucket = bucket_chunks * chunk * (row + 17)
    for world in (1, 4):
        expected = 2 * (8 // world) * bucket + 5 * (BATCH // world) * (row + 16)
        assert stream(store, 0, world).memory_bound == expected + 2 * chunk


def test_in_eight_bits_a_read_also_holds_the_stored_values_of_the_widest_site(
    store: Store,
) -> None:
    exact, small = (
        memory_bound(store.layout, {"in": 6, "out": 3}, dtype, CONFIG, BATCH, lanes=8, held=8)
        for dtype in (FloatDtype.bfloat16, FloatDtype.int8)
    )
    assert small - exact == 2 * 20 * (6 + 4)


def test_eight_bits_stream_what_they_give_back(
    tmp_path: Path, acts: torch.Tensor, trainable: torch.Tensor
) -> None:
    mib = 20 * 4 * 6 / 2**20  # of a shard in eight bits
    sizes: dict[str, Any] = {"trainable": trainable, "held_out": 0.1}
    small = write_store(
        tmp_path / "small", {"in": acts}, dtype="int8", chunk_mib=mib / 4, shard_mib=mib, **sizes
    )
    given_NSD = from_storage(small.read_sequences("in", range(len(acts))), small.dtype)
    exact = write_store(
        tmp_path / "exact", {"in": given_NSD}, chunk_mib=mib / 2, shard_mib=2 * mib, **sizes
    )
    assert small.layout == exact.layout
    for (found, _), (expected, _) in zip(
        *(
            take(ActivationStream(store, ["in"], BatchPart(BATCH, 5, CONFIG)), 60)
            for store in (small, exact)
        ),
        strict=True,
    ):
        assert torch.equal(found.index, expected.index)
        assert torch.equal(found.acts["in"], expected.acts["in"])


def test_two_places_a_lane_serve_all_buckets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    class Watched(Bucket):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            places.append(self._place)

    monkeypatch.setattr("sae_dist.stream.stream.Bucket", Watched)
    take(stream(store), 150)
    bucket_chunks = 300 // (8 * 20)
    assert len(places) > 50 and set(places) == set(range(0, 2 * 8 * bucket_chunks, bucket_chunks))


def test_one_batch_may_use_up_several_buckets_of_a_lane(store: Store, acts: torch.Tensor) -> None:
    config = StreamConfig(lanes=2, bucket_tokens=1, read_threads=2, batches_ahead=3)
    batch_tokens = 2 * 5 * 16  # a lane's share is five buckets, of one chunk each, and more
    found = take(ActivationStream(store, ["in"], BatchPart(batch_tokens, 5, config)), 12)
    for batch, _ in found:
        assert torch.equal(batch.acts["in"], acts.flatten(0, 1)[batch.index])
        assert len(batch.index.unique()) == batch_tokens
