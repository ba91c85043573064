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
from sae_dist.store.arrays import ArraySpec, array_specs, metadata, shard_parts
from sae_dist.store.layout import Layout

LAYOUT = Layout(num_sequences=23, sequence_length=3, shard_sequences=8, chunk_sequences=2)


def encoded_by_zarr(spec: ArraySpec, layout: Layout, values: np.ndarray) -> bytes:
    """The shard file as zarr-python lays it out in memory."""
    alone = metadata(spec, replace(layout, num_sequences=len(values)))
    document = default_buffer_prototype().buffer.from_bytes(to_json(alone))
    memory: dict[str, Any] = {"zarr.json": document}
    array = zarr.open_array(MemoryStore(memory), mode="r+")
    array.with_config({"write_empty_chunks": True})[:] = values
    return bytes(memory[spec.file_name(0)].as_numpy_array())


@pytest.mark.parametrize("dtype", list(FloatDtype))
@pytest.mark.parametrize("num_sequences", [1, 2, 5, 7, 8])
def test_shards_are_byte_for_byte_those_of_zarr(dtype: FloatDtype, num_sequences: int) -> None:
    generator = torch.Generator().manual_seed(num_sequences)
    acts_NSD = torch.randn(num_sequences, 3, 5, generator=generator)
    ids_NS = np.arange(num_sequences * 3, dtype=np.int32).reshape(-1, 3)
    contents = {
        "tokens/input_ids": ids_NS,
        "tokens/trainable": ids_NS % 2 == 0,
        "activations/x": to_storage(acts_NSD, dtype),
    }
    for path, spec in array_specs({"x": 5}, 3, dtype).items():
        values = contents[path]
        found = b"".join(shard_parts(spec, LAYOUT, values))
        assert found == encoded_by_zarr(spec, LAYOUT, values)
        filled = np.full_like(values, spec.fill_value)
        assert b"".join(shard_parts(spec, LAYOUT, filled)) == encoded_by_zarr(spec, LAYOUT, filled)


def test_whole_chunks_are_not_copied() -> None:
    spec = array_specs({"x": 5}, 3, FloatDtype.float32)["activations/x"]
    values = np.zeros((7, 3, 5), np.float32)
    chunks = [np.frombuffer(part, np.uint8) for part in shard_parts(spec, LAYOUT, values)[:8:2]]
    assert [np.shares_memory(chunk, values) for chunk in chunks] == [True, True, True, False]
