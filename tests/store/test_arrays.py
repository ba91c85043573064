import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from sae_dist.common.dtypes import FloatDtype, to_storage
from sae_dist.common.files import to_json
from sae_dist.store.arrays import ArraySpec, array_specs, bytes_on_disk, metadata, shard_parts
from sae_dist.store.layout import Layout

EXACT = [dtype for dtype in FloatDtype if dtype is not FloatDtype.int8]
LAYOUT = Layout(
    num_sequences=23, sequence_length=6, shard_sequences=8, chunk_sequences=4, chunk_positions=2
)
GRIDS = [(2, 6), (4, 2), (8, 1), (8, 3), (1, 2)]


def file_of(spec: ArraySpec, layout: Layout, values: np.ndarray) -> bytes:
    parts = shard_parts(spec, layout, values)
    return b"".join(bytes(data) + crc.to_bytes(4, "little") for data, crc in parts)


def in_memory(spec: ArraySpec, layout: Layout) -> tuple[dict[str, Any], zarr.Array]:
    """An array of zarr-python, and the files behind it."""
    document = default_buffer_prototype().buffer.from_bytes(to_json(metadata(spec, layout)))
    memory: dict[str, Any] = {"zarr.json": document}
    return memory, zarr.open_array(MemoryStore(memory), mode="r+")


def encoded_by_zarr(spec: ArraySpec, layout: Layout, values: np.ndarray) -> bytes:
    """The shard file as zarr-python lays it out in memory."""
    memory, array = in_memory(spec, layout)
    array.with_config({"write_empty_chunks": True})[:] = values
    return bytes(memory[spec.file_name(0)].as_numpy_array())


def decoded_by_zarr(spec: ArraySpec, layout: Layout, file: bytes) -> np.ndarray:
    """What zarr-python reads in a shard file."""
    memory, array = in_memory(spec, layout)
    memory[spec.file_name(0)] = default_buffer_prototype().buffer.from_bytes(file)
    return np.asarray(array[:])


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("num_sequences", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_shards_are_byte_for_byte_those_of_zarr(
    dtype: FloatDtype, num_sequences: int, grid: tuple[int, int]
) -> None:
    """Of a grid of chunks in both directions, zarr would write the chunks in another order."""
    sequences, positions = grid
    layout = replace(
        LAYOUT,
        num_sequences=num_sequences,
        chunk_sequences=sequences,
        chunk_positions=positions,
    )
    generator = torch.Generator().manual_seed(num_sequences)
    acts_NSD = torch.randn(num_sequences, 6, 5, generator=generator)
    ids_NS = np.arange(num_sequences * 6, dtype=np.int32).reshape(-1, 6)
    contents = {
        "tokens/input_ids": ids_NS,
        "tokens/trainable": ids_NS % 2 == 0,
        "activations/x": to_storage(acts_NSD, dtype),
    }
    for path, spec in array_specs({"x": 5}, 6, dtype).items():
        values = contents[path]
        filled = np.full_like(values, spec.fill_value)
        for written in (values, filled):
            found = file_of(spec, layout, written)
            assert len(found) == bytes_on_disk([spec], layout, [0])
            assert decoded_by_zarr(spec, layout, found).tobytes() == written.tobytes()
            if sequences == 8 or positions == 6:
                assert found == encoded_by_zarr(spec, layout, written)


def shared(layout: Layout) -> list[bool]:
    """Which chunks of a shard of seven sequences are views of its values."""
    spec = array_specs({"x": 5}, 6, FloatDtype.float32)["activations/x"]
    values = np.zeros((7, 6, 5), np.float32)
    *chunks, _ = (np.frombuffer(data, np.uint8) for data, _ in shard_parts(spec, layout, values))
    return [np.shares_memory(chunk, values) for chunk in chunks]


def test_chunks_that_lie_in_one_piece_are_not_copied() -> None:
    whole = replace(LAYOUT, chunk_sequences=2, chunk_positions=6)
    assert shared(whole) == [True, True, True, False]
    assert shared(LAYOUT) == 6 * [False]


def test_no_more_than_one_copied_chunk_is_held() -> None:
    spec = array_specs({"x": 64}, 64, FloatDtype.float32)["activations/x"]
    layout = Layout(
        num_sequences=64, sequence_length=64, shard_sequences=64, chunk_sequences=64,
        chunk_positions=2,
    )  # fmt: skip
    values = np.zeros((64, 64, 64), np.float32)
    tracemalloc.start()
    for _ in shard_parts(spec, layout, values):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * values.nbytes / 32
