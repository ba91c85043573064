import threading
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.store import Store, write_store
from sae_dist.stream import HeldOutPart, held_out


def sequences(
    store: Store, parts: int, max_sequences: int | None, size: int = 1
) -> list[list[list[int]]]:
    """Of each part the sequences of each batch."""
    return [
        [batch.sequences.tolist() for batch in held_out(store, ["in"], part)]
        for part in (HeldOutPart(n, parts, max_sequences, size) for n in range(parts))
    ]


def test_the_held_out_sequences_come_whole_and_in_order(
    store: Store, acts: torch.Tensor, trainable: torch.Tensor
) -> None:
    expected = [s for run in store.held_out for s in run]
    assert sequences(store, 1, None) == [[[s] for s in expected]] and len(expected) == 40
    for batch in held_out(store, ["in", "out"], HeldOutPart(batch_sequences=7)):
        rows = batch.sequences
        ids = torch.arange(400 * 4).reshape(400, 4) + 7
        assert batch.input_ids.dtype == torch.int64 and torch.equal(batch.input_ids, ids[rows])
        assert torch.equal(batch.trainable, trainable[rows])
        assert torch.equal(batch.acts["in"], acts[rows])
        assert torch.equal(batch.acts["out"], acts[rows, :, :3] * 2)


def test_batches_that_are_done_are_not_read_again(store: Store) -> None:
    whole = sequences(store, 1, 38, size=4)[0]
    for parts in (1, 2):
        done = frozenset({0, 3, 4, 9})
        shared = [HeldOutPart(part, parts, 38, 4, done) for part in range(parts)]
        left = [b.sequences.tolist() for part in shared for b in held_out(store, ["in"], part)]
        assert left == [batch for number, batch in enumerate(whole) if number not in done]


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("max_sequences", [None, 0, 1, 10, 1000])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_share_the_same_batches_however_many(
    store: Store, parts: int, max_sequences: int | None, size: int
) -> None:
    shared = sequences(store, parts, max_sequences, size)
    joined = [batch for part in shared for batch in part]
    assert [joined] == sequences(store, 1, max_sequences, size)
    assert sum(map(len, joined)) == (40 if max_sequences is None else min(40, max_sequences))
    assert max(map(len, shared)) <= min(map(len, shared)) + 1


def test_a_batch_has_as_many_sequences_as_were_asked_for(store: Store) -> None:
    expected = [s for run in store.held_out for s in run]
    assert [len(run) for run in store.held_out] == [20, 20]
    (found,) = sequences(store, 1, None, 7)
    assert found == [expected[first : first + 7] for first in range(0, 40, 7)]


def test_memory_is_that_of_three_chunks_of_sequences_however_many(tmp_path: Path) -> None:
    x = torch.zeros(512, 16, 64)
    sizes = {"chunk_mib": 2**-5, "shard_mib": 2**-3, "held_out": 0.9}  # 64 sequences a shard
    store = write_store(tmp_path / "store", {"in": x}, **sizes)  # type: ignore[arg-type]
    run = 16 * 16 * (64 * 2 + 8 + 1)  # a chunk, with ids
    assert [len(held) for held in store.held_out] == 7 * [64]
    tracemalloc.start()
    batches = held_out(store, ["in"])
    try:
        kept = [next(batches)]
        for number, batch in enumerate(batches):
            kept = [batch]
            if number % 16 == 0:
                time.sleep(0.05)  # the reader could go on
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept[0].sequences[0] > 400
    assert 1.5 * run < most < 3.2 * run + 64 * 16 * (4 + 1)  # and a shard's tokens, as read


def test_dropping_the_iterator_ends_its_thread(store: Store) -> None:
    batches = held_out(store, ["in"])
    next(batches)
    del batches
    assert not [t for t in threading.enumerate() if t.name.startswith("sae-ahead")]


def test_unknown_sites_and_stores_without_are_refused_at_once(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no site"):
        held_out(store, ["mid"])
    everything = write_store(tmp_path / "store", {"in": torch.ones(9, 2)}, held_out=0.0)
    with pytest.raises(UserError, match="no held-out shard"):
        held_out(everything, ["in"])
