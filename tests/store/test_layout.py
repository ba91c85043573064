from typing import Any

import pytest

from sae_dist.common.errors import UserError
from sae_dist.store import StoreConfig
from sae_dist.store.layout import Layout, is_held_out
from sae_dist.store.records import choose_settings

LAYOUT = Layout(
    num_sequences=23, sequence_length=4, shard_sequences=6, chunk_sequences=2, chunk_rows=7
)


def test_units_cover_every_sequence_once_and_have_room_for_all_of_its_tokens() -> None:
    assert [s for unit in range(LAYOUT.num_units) for s in LAYOUT.sequences_of(unit)] == [
        *range(23)
    ]
    assert LAYOUT.unit_rows == 28  # of 24 tokens in chunks of 7


def chosen(positions: int, kib: int, num_sequences: int | None, **sizes: Any) -> tuple[int, ...]:
    """(sequences of a shard, sequences of a chunk, rows of a chunk)."""
    config = StoreConfig(**{"chunk_mib": 4.0, "shard_mib": 256.0, "held_out": 0.0, **sizes})
    settings = choose_settings({"x": kib * 2**9}, positions, config, {}, num_sequences)
    assert settings.shard_sequences % settings.chunk_sequences == 0
    return settings.shard_sequences, settings.chunk_sequences, settings.chunk_rows


def test_a_chunk_is_so_many_rows_or_whole_sequences_as_fill_it() -> None:
    assert chosen(1024, 1, None) == (256, 4, 4096)
    assert chosen(128, 1, None) == (2048, 32, 4096)
    assert chosen(1, 1, None) == (64 * 4096, 4096, 4096)
    assert chosen(1024, 5, None) == (51, 1, 816)  # 64 even chunks of the 52,224 tokens


def test_a_sequence_larger_than_a_chunk_is_a_chunk() -> None:
    assert chosen(8, 2**14, 9, chunk_mib=1, shard_mib=2) == (1, 1, 1)
    assert chosen(8192, 1, None) == (32, 1, 4096)


def test_shards_of_a_known_number_of_sequences_are_even() -> None:
    assert chosen(1024, 1, 257) == (132, 4, 4096)  # 129 of them, in whole chunks
    assert chosen(1024, 1, 20_000) == (256, 4, 4096)
    assert chosen(1024, 1, 3) == (3, 3, 3072)


def test_there_are_units_enough_to_set_a_share_aside() -> None:
    assert chosen(128, 1, 156, held_out=0.05) == (8, 8, 1024)  # 20K tokens: 20 units
    assert chosen(128, 1, 156, held_out=0.0) == (160, 32, 4096)
    assert chosen(128, 1, 2, held_out=0.05) == (1, 1, 128)
    assert chosen(128, 1, 10**6, held_out=0.05) == chosen(128, 1, 10**6)


@pytest.mark.parametrize(("chunk_mib", "shard_mib"), [(0, 1), (-1, 1), (2, 1)])
def test_impossible_sizes_are_refused(chunk_mib: float, shard_mib: float) -> None:
    with pytest.raises(UserError, match="chunk_mib"):
        chosen(8, 1, 9, chunk_mib=chunk_mib, shard_mib=shard_mib)


def test_held_out_units_are_evenly_spaced_and_never_all() -> None:
    assert [unit for unit in range(100) if is_held_out(unit, 0.05)] == [1, 21, 41, 61, 81]
    assert not any(is_held_out(unit, 0.0) for unit in range(1000))
    for share in (0.001, 0.01, 0.05, 0.3, 1 / 3, 0.5, 0.99):
        held_out = [is_held_out(unit, share) for unit in range(2000)]
        assert held_out[:2] == [False, True]
        for num_units in (2, 10, 999, 2000):
            assert 0 <= sum(held_out[:num_units]) - share * (num_units - 1) < 1
