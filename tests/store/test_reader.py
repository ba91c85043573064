from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from awscrt.checksums import crc32c

from sae_dist.common.dtypes import FloatDtype, from_storage, to_storage
from sae_dist.common.errors import UserError
from sae_dist.store import Store, StoreWriter, open_store
from sae_dist.store.statistics import Statistics, statistics_of

EXACT = [dtype for dtype in FloatDtype if dtype is not FloatDtype.int8]


def read_all(store: Store, site: str) -> torch.Tensor:
    return from_storage(store.read_sequences(site, range(store.layout.num_sequences)), store.dtype)


@pytest.mark.parametrize("dtype", EXACT)
def test_activations_come_back_bit_for_bit(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype
) -> None:
    data.fill(create(dtype=dtype))
    store = open_store(create(dtype=dtype).path)
    assert (store.sites, store.dtype) == ({"in.0": 6, "out.0": 3}, dtype)
    assert store.layout.chunks_per_shard == 2
    for site, x_NSD in data.acts.items():
        assert torch.equal(read_all(store, site), x_NSD.to(dtype.compute))


@pytest.mark.parametrize(
    ("chunk", "grid"), [(6, (6, 6, 4)), (3.5, (6, 6, 2)), (0.8, (6, 3, 1)), (0.1, (6, 1, 1))]
)
def test_chunks_of_any_shape_come_back_bit_for_bit(
    data: Any, create: Callable[..., StoreWriter], chunk: float, grid: tuple[int, ...]
) -> None:
    """Chunk by chunk, and put together to sequences; `chunk` is in sequences."""
    data.fill(create(chunk_mib=chunk * 4 * 9 * 2 / 2**20))
    store = open_store(create(chunk_mib=chunk * 4 * 9 * 2 / 2**20).path)
    layout = store.layout
    assert (layout.shard_sequences, layout.chunk_sequences, layout.chunk_positions) == grid
    zarrs = zarr.open_array(store.path / "activations" / "in.0", mode="r")[:]
    assert np.array_equal(zarrs, to_storage(data.acts["in.0"], store.dtype))
    for number in range(layout.num_chunks):
        rows, columns = layout.sequences_of_chunk(number), layout.positions_of_chunk(number)
        place = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        assert np.array_equal(store.read_chunk("in.0", number), zarrs[place])
        assert np.array_equal(store.read_trainable(number), data.trainable[place])
        assert store.trainable_counts()[number] == data.trainable[place].sum()
    for sequences in (range(23), range(5, 14), range(22, 23)):
        rows = slice(sequences.start, sequences.stop)
        assert np.array_equal(store.read_sequences("in.0", sequences), zarrs[rows])
        ids, trainable = store.read_tokens(sequences)
        assert np.array_equal(ids, data.ids[rows])
        assert np.array_equal(trainable, data.trainable[rows])


@pytest.mark.parametrize("dtype", EXACT)
def test_zarr_opens_every_array_and_reads_the_same(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype
) -> None:
    data.fill(create(dtype=dtype))
    root = create(dtype=dtype).path
    array = zarr.open_array(root / "activations" / "out.0", mode="r")
    assert np.array_equal(array[:], to_storage(data.acts["out.0"], dtype))
    assert array.metadata.dimension_names == ("sequence", "position", "d_site")
    assert dict(array.attrs) == {"logical_dtype": dtype.value}
    fill = from_storage(np.array([array.fill_value], dtype=dtype.storage), dtype)
    assert bool(fill.isnan())
    for name, expected in (("input_ids", data.ids), ("trainable", data.trainable)):
        assert np.array_equal(zarr.open_array(root / "tokens" / name, mode="r")[:], expected)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("hole", ["shard", "chunk"])
def test_a_hole_is_loud_in_zarr_and_refused_here(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype, hole: str
) -> None:
    """Without a shard, or with one whose index lacks a chunk, zarr gives NaN and no zeros."""
    data.fill(create(dtype=dtype))
    root = create(dtype=dtype).path
    path = root / "activations" / "out.0" / "c.1.0.0"
    store = open_store(root)
    content, index_bytes = path.read_bytes(), 2 * 16 + 4
    path.unlink()
    if hole == "chunk":
        index = np.frombuffer(content[-index_bytes:-4], "<u8").reshape(2, 2).copy()
        index[0] = 2**64 - 1
        crc = crc32c(index.tobytes()).to_bytes(4, "little")
        path.write_bytes(b"\0" * 10 + content[10:-index_bytes] + index.tobytes() + crc)
    x_NSD = from_storage(zarr.open_array(root / "activations" / "out.0", mode="r")[:], dtype)
    is_hole_NS = torch.zeros(23, 4, dtype=torch.bool)
    is_hole_NS[6:12, : 4 if hole == "shard" else 2] = True
    assert x_NSD[is_hole_NS].isnan().all() and not x_NSD[~is_hole_NS].isnan().any()
    with pytest.raises(UserError, match="chunk 2 damaged in .*c.1.0.0"):
        store.read_chunk("out.0", 2)


def test_zarr_reads_a_missing_shard_of_tokens_as_not_trainable(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    for name, fill in (("input_ids", -1), ("trainable", False)):
        (create().path / "tokens" / name / "c.1.0").unlink()
        found = zarr.open_array(create().path / "tokens" / name, mode="r")[6:12]
        assert (found == fill).all()


def test_values_equal_to_the_fill_value_are_written(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.ids[:], data.trainable[:] = -1, False
    data.acts["in.0"][:] = float("nan")
    data.fill(create())
    store = open_store(create().path)
    assert read_all(store, "in.0").isnan().all() and store.trainable_counts().sum() == 0


def test_marks_that_the_manifest_tells_are_not_read(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    """A chunk all of whose tokens are counted needs no marks; those of others are checked."""
    data.trainable[:6] = True
    data.trainable[6, 0] = False
    data.fill(create())
    store = open_store(create().path)
    for file in (store.path / "tokens" / "trainable").glob("c.*"):
        file.write_bytes(bytes(file.stat().st_size))
    for chunk in store.layout.chunks_of(0):
        assert store.read_trainable(chunk).all()
    with pytest.raises(UserError, match="chunk 2 damaged"):
        store.read_trainable(2)


def test_chunks_are_for_training_or_held_out(data: Any, create: Callable[..., StoreWriter]) -> None:
    data.fill(create())
    store = open_store(create().path)
    assert store.manifest.held_out == [2]
    assert store.held_out_chunks() == [4, 5] and store.held_out_sequences() == [range(12, 18)]
    assert store.training_chunks() == [0, 1, 2, 3, 6, 7]


def test_statistics_are_those_of_trainable_tokens_in_training_shards(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    trainable = data.trainable.copy()
    trainable[12:18] = False
    x_TD = data.acts["in.0"].bfloat16().double()[torch.from_numpy(trainable)]
    statistics = open_store(create().path).statistics("in.0")
    assert statistics.count == len(x_TD)
    np.testing.assert_allclose(statistics.mean, x_TD.mean(0), rtol=0, atol=1e-7)
    assert statistics.mean_square == pytest.approx(float(x_TD.square().sum(1).mean()), rel=1e-6)


def test_statistics_add_up_and_travel_exactly() -> None:
    x_NSD = torch.randn(100, 8, 500, generator=torch.Generator().manual_seed(0))
    trainable_NS = torch.rand(100, 8, generator=torch.Generator().manual_seed(1)) < 0.9
    whole = statistics_of(x_NSD, trainable_NS, 0)
    parts = [
        statistics_of(x, trainable, 0)
        for x, trainable in zip(x_NSD.split(30), trainable_NS.split(30), strict=True)
    ]
    together = sum(parts, Statistics.zero(500))
    assert Statistics.from_json(whole.to_json()).to_json() == whole.to_json()
    exact = x_NSD[trainable_NS].double()
    for found in (whole, together):
        assert found.count == len(exact)
        np.testing.assert_allclose(found.sum, exact.sum(0), rtol=0, atol=1e-4)
        assert found.sum_square == pytest.approx(float(exact.square().sum()), rel=1e-6)


def test_squares_beyond_float32_are_summed() -> None:
    statistics = statistics_of(torch.full((2, 1, 3), 1e30), torch.ones(2, 1, dtype=torch.bool), 0)
    assert statistics.mean_square == pytest.approx(3e60, rel=1e-6)


def test_an_unsealed_store_opens_only_when_asked_for(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create()
    with pytest.raises(UserError, match="unsealed"):
        open_store(writer.path)
    with pytest.raises(UserError, match="tokens first"):
        open_store(writer.path, unsealed=True)
    writer.write_tokens(data.blocks(), dict)
    writer.write_shard(1, data.shard(writer, 1))
    store = open_store(writer.path, unsealed=True)
    assert (store.training_chunks(), store.held_out_chunks()) == ([2, 3], [])
    assert store.trainable_counts().tolist()[:2] == [0, 0]
    assert store.statistics("in.0").count == int(data.trainable[6:12].sum())


def test_no_store_and_no_site_are_said_plainly(
    data: Any, create: Callable[..., StoreWriter], tmp_path: Any
) -> None:
    with pytest.raises(UserError, match="no store"):
        open_store(tmp_path / "nowhere")
    data.fill(create())
    with pytest.raises(UserError, match=r"no site 'in\.1'.*in\.0, out\.0"):
        open_store(create().path).read_chunk("in.1", 0)


def test_a_shard_larger_than_allowed_is_refused(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    with pytest.raises(UserError, match="expected at most 100"):
        open_store(create().path, max_shard_bytes=100)
