"""Shards are the bytes that zarr-python writes, and what zarr-python and tensorstore read."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.files import to_json
from sae_dist.store.layout import INDEX, ArraySpec, Layout, array_specs
from sae_dist.store.unit import shard_parts

LAYOUT = Layout(
    num_sequences=12, sequence_length=3, shard_sequences=6, chunk_sequences=2, chunk_rows=5
)


def written(spec: ArraySpec, items: np.ndarray, order: np.ndarray | None = None) -> bytes:
    return b"".join(bytes(part) for part in shard_parts(spec, items, order, []))


def in_memory(spec: ArraySpec) -> tuple[dict[str, Any], zarr.Array]:
    """An array of zarr-python, and the files behind it."""
    document = to_json(spec.metadata(LAYOUT))
    memory: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(document)}
    return memory, zarr.open_array(MemoryStore(memory), mode="r+")


def values(spec: ArraySpec, num_items: int) -> np.ndarray:
    dice = np.random.default_rng(num_items)
    raw = dice.integers(0, 100, (num_items, *spec.item_shape))
    return raw.astype(spec.dtype)


@pytest.mark.parametrize("dtype", FloatDtype)
@pytest.mark.parametrize("num_items", [0, 1, 2, 5, 6])
def test_shards_are_byte_for_byte_those_of_zarr(dtype: FloatDtype, num_items: int) -> None:
    for spec in array_specs({"x": 4}, LAYOUT, dtype).values():
        items = values(spec, num_items)
        file = written(spec, items)
        assert len(file) == spec.file_bytes(num_items)
        memory, array = in_memory(spec)
        name = spec.file(0).rpartition("/")[2]
        memory[name] = default_buffer_prototype().buffer.from_bytes(file)
        assert np.array_equal(array[:num_items], items)
        if num_items:
            memory, array = in_memory(spec)
            whole = spec.num_chunks(num_items) * spec.chunk_items
            array.with_config({"write_empty_chunks": True})[:whole] = values(spec, whole)
            array.with_config({"write_empty_chunks": True})[:num_items] = items
            array.with_config({"write_empty_chunks": True})[num_items:whole] = spec.empty_chunk()[
                : whole - num_items
            ]
            assert bytes(memory[name].as_numpy_array()) == file


def test_rows_are_gathered_in_their_order() -> None:
    spec = array_specs({"x": 4}, LAYOUT, FloatDtype.float32)["rows/activations/x"]
    items, order = values(spec, 18), np.random.default_rng(0).permutation(18)[:13]
    assert written(spec, items, order) == written(spec, items[order])


@pytest.mark.parametrize("num_items", [0, 3, 13])
def test_tensorstore_reads_a_unit_whose_last_chunks_are_not_there(
    tmp_path: Path, num_items: int
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    spec = array_specs({"x": 4}, LAYOUT, FloatDtype.float32)[INDEX]
    items = np.arange(num_items)
    (tmp_path / "zarr.json").write_text(json.dumps(spec.metadata(LAYOUT)))
    (tmp_path / spec.file(1).rpartition("/")[2]).write_bytes(written(spec, items))
    at = {"driver": "file", "path": str(tmp_path)}
    array = tensorstore.open({"driver": "zarr3", "kvstore": at}).result()
    found = np.asarray(array.read().result())
    expected = np.full(2 * LAYOUT.unit_rows, -1)
    expected[LAYOUT.unit_rows :][:num_items] = items
    assert np.array_equal(found, expected)
    assert np.array_equal(np.asarray(zarr.open_array(tmp_path, mode="r")[:]), expected)


def test_no_more_than_one_copied_chunk_is_held() -> None:
    layout = Layout(
        num_sequences=64, sequence_length=64, shard_sequences=64, chunk_sequences=1, chunk_rows=128
    )
    spec = array_specs({"x": 64}, layout, FloatDtype.float32)["rows/activations/x"]
    items = np.zeros((64 * 64, 64), np.float32)
    order = np.arange(64 * 64)
    tracemalloc.start()
    for _ in shard_parts(spec, items, order, []):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * items.nbytes / 32
