from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from sae_dist.common.errors import UserError
from sae_dist.store.layout import Layout, choose_layout, held_out_units

LAYOUT = Layout(
    num_sequences=23, sequence_length=4, shard_sequences=6, chunk_sequences=2, chunk_positions=4
)


def test_chunks_and_shards_cover_every_sequence_once() -> None:
    assert (LAYOUT.num_shards, LAYOUT.num_chunks, LAYOUT.chunks_per_shard) == (4, 12, 3)
    assert [s for unit in range(4) for s in LAYOUT.sequences_of(unit)] == list(range(23))
    assert [c for unit in range(4) for c in LAYOUT.chunks_of(unit)] == list(range(12))
    assert [s for chunk in range(12) for s in LAYOUT.sequences_of_chunk(chunk)] == list(range(23))


@pytest.mark.parametrize("chunk_sequences", [1, 2, 3, 6])
@pytest.mark.parametrize("chunk_positions", [1, 2, 4])
def test_chunks_of_some_positions_cover_every_token_once(
    chunk_sequences: int, chunk_positions: int
) -> None:
    layout = replace(LAYOUT, chunk_sequences=chunk_sequences, chunk_positions=chunk_positions)
    tokens: Counter[tuple[int, int]] = Counter()
    for unit in range(layout.num_shards):
        for chunk in layout.chunks_of(unit):
            held = layout.sequences_of_chunk(chunk)
            assert set(held) <= set(layout.sequences_of(unit))
            assert chunk in layout.chunks_with(held) and chunk in layout.chunks_with(held[-1:])
            tokens.update(product(held, layout.positions_of_chunk(chunk)))
    assert tokens == Counter(product(range(23), range(4)))
    assert layout.chunks_of(3).stop == layout.num_chunks
    assert layout.chunks_with(range(23)) == range(layout.num_chunks)
    assert layout.chunk_tokens * layout.chunks_per_shard == 6 * 4


def chosen(positions: int, kib: int, num_sequences: int | None, **sizes: float) -> tuple[int, ...]:
    """(sequences of a shard, sequences of a chunk, positions of a chunk)."""
    layout = choose_layout(
        num_sequences=num_sequences,
        sequence_length=positions,
        bytes_per_position=kib * 2**10,
        **{"chunk_mib": 4.0, "shard_mib": 256.0, **sizes},
    )
    return layout.shard_sequences, layout.chunk_sequences, layout.chunk_positions


def test_a_chunk_reaches_through_all_sequences_of_its_shard() -> None:
    assert chosen(1024, 1, None) == (256, 256, 16)
    assert chosen(128, 1, None) == (2048, 2048, 2)
    assert chosen(1024, 5, None) == (51, 51, 16)  # 4.0 MiB, of 4.08 that 16 positions of 52 take


def test_where_a_position_of_all_sequences_is_too_much_a_chunk_takes_fewer_sequences() -> None:
    assert chosen(16, 1, None) == (4 * 4096, 4096, 1)
    assert chosen(1, 1, None) == (64 * 4096, 4096, 1)


def test_odd_numbers_of_positions_are_cut_by_their_divisors() -> None:
    assert chosen(1023, 1, None) == (256, 256, 11)
    assert chosen(1021, 1, None) == (256, 256, 1)  # a prime number


def test_shards_of_a_known_number_of_sequences_are_even() -> None:
    assert chosen(1024, 1, 257) == (129, 129, 16)
    assert chosen(1024, 1, 20_000) == (254, 254, 16)  # 79 of them, the last has 188
    assert chosen(1024, 1, 3) == (3, 3, 1024)
    assert chosen(4, 1024, 35, chunk_mib=8, shard_mib=128) == (18, 6, 1)


def test_there_are_shards_enough_to_set_a_share_aside() -> None:
    assert chosen(128, 1, 156, held_out=0.05) == (8, 8, 128)  # 20K tokens: 20 shards
    assert chosen(128, 1, 156, held_out=0.0) == (156, 156, 16)
    assert chosen(128, 1, 2, held_out=0.05) == (1, 1, 128)
    assert chosen(128, 1, 10**6, held_out=0.05) == chosen(128, 1, 10**6)


def test_a_position_larger_than_a_chunk_is_a_chunk() -> None:
    assert chosen(8, 2**14, 9, chunk_mib=1, shard_mib=2) == (1, 1, 1)


@pytest.mark.parametrize(("chunk_mib", "shard_mib"), [(0, 1), (-1, 1), (2, 1)])
def test_impossible_sizes_are_refused(chunk_mib: float, shard_mib: float) -> None:
    with pytest.raises(UserError, match="chunk_mib"):
        choose_layout(
            num_sequences=9,
            sequence_length=8,
            bytes_per_position=1,
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
