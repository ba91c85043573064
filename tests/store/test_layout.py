import pytest

from sae_dist.common.errors import UserError
from sae_dist.store.layout import Layout, choose_layout, held_out_units


def test_chunks_and_shards_cover_every_sequence_once() -> None:
    layout = Layout(num_sequences=23, sequence_length=4, shard_sequences=6, chunk_sequences=2)
    assert (layout.num_shards, layout.num_chunks, layout.chunks_per_shard) == (4, 12, 3)
    assert [s for unit in range(4) for s in layout.sequences_of(unit)] == list(range(23))
    assert [c for unit in range(4) for c in layout.chunks_of(unit)] == list(range(12))
    assert [s for chunk in range(12) for s in layout.sequences_of_chunk(chunk)] == list(range(23))


def test_the_chosen_sizes_are_the_largest_that_do_not_pass_the_wanted_ones() -> None:
    layout = choose_layout(
        num_sequences=99, sequence_length=8, bytes_per_sequence=3 * 2**18, chunk_mib=4, shard_mib=64
    )
    assert layout.chunk_sequences == 5  # 3.75 MiB
    assert layout.shard_sequences == 85  # 63.75 MiB


def test_a_sequence_larger_than_a_chunk_is_a_chunk() -> None:
    layout = choose_layout(
        num_sequences=9, sequence_length=8, bytes_per_sequence=2**24, chunk_mib=1, shard_mib=2
    )
    assert (layout.chunk_sequences, layout.shard_sequences) == (1, 1)


@pytest.mark.parametrize(("chunk_mib", "shard_mib"), [(0, 1), (-1, 1), (2, 1)])
def test_impossible_sizes_are_refused(chunk_mib: float, shard_mib: float) -> None:
    with pytest.raises(UserError, match="chunk_mib"):
        choose_layout(
            num_sequences=9,
            sequence_length=8,
            bytes_per_sequence=1,
            chunk_mib=chunk_mib,
            shard_mib=shard_mib,
        )


def test_held_out_shards_are_evenly_spaced_and_never_all() -> None:
    assert held_out_units(100, 0.05) == [10, 30, 50, 70, 90]
    assert held_out_units(3, 0.01) == [1]
    assert held_out_units(7, 0.0) == []
    for num_shards in range(2, 40):
        for share in (0.01, 0.3, 0.99):
            units = held_out_units(num_shards, share)
            assert 1 <= len(set(units)) == len(units) < num_shards
            assert set(units) <= set(range(num_shards))


@pytest.mark.parametrize(("num_shards", "share"), [(1, 0.1), (5, 1.0), (5, -0.1)])
def test_an_impossible_held_out_share_is_refused(num_shards: int, share: float) -> None:
    with pytest.raises(UserError, match="held_out"):
        held_out_units(num_shards, share)
