from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from sae_dist.common.dtypes import FloatDtype, from_storage, to_storage
from sae_dist.common.errors import UserError
from sae_dist.common.files import crc32c
from sae_dist.store import StoreWriter, open_store, read_settings
from sae_dist.store.files import Files
from tests.store.conftest import everything

EXACT = [dtype for dtype in FloatDtype if dtype is not FloatDtype.int8]
HELD_OUT = range(6, 12)


def is_stored(data: Any) -> torch.Tensor:
    """Tokens of which there are activations: trainable ones, and all of held-out units."""
    stored = torch.from_numpy(data.trainable.copy())
    stored[HELD_OUT.start : HELD_OUT.stop] = True
    return stored


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("chunk", [6, 3.5, 0.8, 0.1])
def test_activations_come_back_bit_for_bit(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype, chunk: float
) -> None:
    """`chunk` is in sequences."""
    settings = {"dtype": dtype, "chunk_mib": chunk * 4 * 9 * dtype.disk.itemsize / 2**20}
    data.fill(create(**settings))
    store = open_store(create(**settings).path)
    assert (store.sites, store.dtype) == ({"in.0": 6, "out.0": 3}, dtype)
    assert store.held_out == [HELD_OUT]
    stored = is_stored(data)
    for site, x_NSD in data.acts.items():
        found = everything(store, site)
        assert torch.equal(found[stored], x_NSD[stored].to(dtype.compute))
        assert found[~stored].isnan().all()
    for sequences in (range(23), range(5, 14), range(22, 23)):
        rows = slice(sequences.start, sequences.stop)
        ids, trainable = store.read_tokens(sequences)
        assert np.array_equal(ids, data.ids[rows])
        assert np.array_equal(trainable, data.trainable[rows])
    held = to_storage(data.acts["in.0"], dtype)
    for sequences in (range(6, 12), range(7, 11), range(11, 12)):
        found = store.read_sequences("in.0", sequences)
        assert np.array_equal(found, held[sequences.start : sequences.stop])


def test_chunks_are_full_but_for_a_units_last_and_fair_samples(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    store = open_store(create().path)
    rows = [int(data.trainable[unit * 6 : unit * 6 + 6].sum()) for unit in (0, 2, 3)]
    assert store.layout.chunk_rows == 12
    assert store.chunk_rows.tolist() == [n for r in rows for n in (12, r - 12)]
    assert store.unit_of_chunk.tolist() == [0, 0, 2, 2, 3, 3]
    index = np.concatenate([store.read_index(chunk) for chunk in range(6)])
    assert sorted(index) == [t for t in range(92) if t % 5 and t // 4 not in HELD_OUT]
    assert not np.array_equal(index[: rows[0]], np.sort(index[: rows[0]]))
    assert len(set(store.read_index(0) // 4)) >= 5  # sequences of the six


def test_a_chunk_is_read_into_room_of_its_rows(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    store = open_store(create().path)
    room = np.zeros((int(store.chunk_rows.sum()), 6), np.uint16)
    starts = np.concatenate([[0], store.chunk_rows.cumsum()])
    for chunk, (start, stop) in enumerate(pairwise(starts)):
        store.read_rows_into("in.0", chunk, room[start:stop])
    assert np.array_equal(room, np.concatenate([store.read_rows("in.0", c) for c in range(6)]))


@pytest.mark.parametrize("dtype", EXACT)
def test_zarr_opens_every_array_and_reads_the_same(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype
) -> None:
    data.fill(create(dtype=dtype))
    root = create(dtype=dtype).path
    index = zarr.open_array(root / "rows" / "index", mode="r")[:]
    rows = zarr.open_array(root / "rows" / "activations" / "out.0", mode="r")
    sequences = zarr.open_array(root / "sequences" / "activations" / "out.0", mode="r")
    x_TD = to_storage(data.acts["out.0"].flatten(0, 1), dtype)
    assert np.array_equal(rows[:][index >= 0], x_TD[index[index >= 0]])
    held = to_storage(data.acts["out.0"], dtype)[6:12]
    assert np.array_equal(sequences[6:12], held)
    for array, empty in ((rows, rows[:][index < 0]), (sequences, sequences[12:])):
        assert from_storage(empty, dtype).isnan().all()
        assert dict(array.attrs) == {"logical_dtype": dtype.value}
    assert rows.metadata.dimension_names == ("row", "d_site")
    assert sequences.metadata.dimension_names == ("sequence", "position", "d_site")
    for name, expected in (("input_ids", data.ids), ("marks", data.trainable)):
        assert np.array_equal(zarr.open_array(root / "sequences" / name, mode="r")[:], expected)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("hole", ["shard", "chunk"])
def test_a_hole_is_loud_in_zarr_and_refused_here(
    data: Any, create: Callable[..., StoreWriter], dtype: FloatDtype, hole: str
) -> None:
    """Without a shard, or with one whose index lacks a chunk, zarr gives NaN and no zeros."""
    data.fill(create(dtype=dtype))
    root = create(dtype=dtype).path
    path = root / "sequences" / "activations" / "out.0" / "c.1.0.0"
    store = open_store(root)
    content, index_bytes = path.read_bytes(), 2 * 16 + 4
    path.unlink()
    if hole == "chunk":
        index = np.frombuffer(content[-index_bytes:-4], "<u8").reshape(2, 2).copy()
        index[0] = 2**64 - 1
        crc = crc32c(index.view(np.uint8).ravel()).to_bytes(4, "little")
        path.write_bytes(b"\0" * 10 + content[10:-index_bytes] + index.tobytes() + crc)
    array = zarr.open_array(root / "sequences" / "activations" / "out.0", mode="r")
    x_NSD = from_storage(array[6:12], dtype)
    assert x_NSD[: 6 if hole == "shard" else 3].isnan().all()
    assert hole == "shard" or x_NSD[3:].isfinite().all()
    with pytest.raises(UserError, match="c.1.0.0 with chunk 0 damaged"):
        store.read_sequences("out.0", HELD_OUT)


def test_values_equal_to_the_fill_value_are_written(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.ids[:], data.trainable[:] = -1, False
    data.acts["in.0"][:] = float("nan")
    data.fill(create())
    store = open_store(create().path)
    assert everything(store, "in.0").isnan().all() and len(store.chunk_rows) == 0
    assert (store.read_tokens(range(23))[0] == -1).all()


def test_statistics_are_those_of_the_rows_of_training_units(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    trainable = data.trainable.copy()
    trainable[6:12] = False
    x_TD = data.acts["in.0"].bfloat16().double()[torch.from_numpy(trainable)]
    statistics = open_store(create().path).statistics("in.0")
    assert statistics.count == len(x_TD)
    np.testing.assert_allclose(statistics.mean, x_TD.mean(0), rtol=0, atol=1e-7)
    assert statistics.mean_square == pytest.approx(float(x_TD.square().sum(1).mean()), rel=1e-6)


def test_an_unsealed_store_opens_only_when_asked_for(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create()
    with pytest.raises(UserError, match="unsealed"):
        open_store(writer.path)
    with pytest.raises(UserError, match="nothing in .* yet"):
        open_store(writer.path, unsealed=True)
    writer.put_tokens(0, *data.tokens(0), None)
    writer.put_tokens(1, *data.tokens(1), None)
    writer.write_unit(1, data.shard(writer, 1))
    assert open_store(writer.path, unsealed=True).held_out == [HELD_OUT]
    data.put_tokens(writer)
    writer.write_unit(2, data.shard(writer, 2))
    store = open_store(writer.path, unsealed=True)
    assert store.unit_of_chunk.tolist() == [2, 2]
    assert store.statistics("in.0").count == int(data.trainable[12:18].sum())
    with pytest.raises(UserError, match="no sequence 5"):
        store.read_tokens(range(5, 7))


def test_settings_are_read_of_a_started_and_of_a_sealed_store(
    data: Any, create: Callable[..., StoreWriter], tmp_path: Any
) -> None:
    assert read_settings(tmp_path / "store") is None
    started = create().settings
    assert read_settings(tmp_path / "store") == started
    data.fill(create())
    assert read_settings(tmp_path / "store") == started


def test_what_is_not_there_is_said_plainly(
    data: Any, create: Callable[..., StoreWriter], tmp_path: Any
) -> None:
    with pytest.raises(UserError, match="no store"):
        open_store(tmp_path / "nowhere")
    data.fill(create())
    store = open_store(create().path)
    with pytest.raises(UserError, match=r"no site 'in\.1'.*in\.0, out\.0"):
        store.read_rows("in.1", 0)
    for chunk in (-1, 6):
        with pytest.raises(UserError, match=f"no chunk {chunk} .*0 to 5"):
            store.read_rows("in.0", chunk)
    with pytest.raises(UserError, match="no sequence 5 .*held-out"):
        store.read_sequences("in.0", range(5, 8))
    with pytest.raises(UserError, match="no sequence 23"):
        store.read_tokens(range(22, 24))


def test_a_shard_larger_than_allowed_is_refused(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create())
    with pytest.raises(UserError, match="expected at most 100"):
        open_store(create().path, max_shard_bytes=100)


def test_opening_reads_the_manifest_and_the_sums_alone(
    data: Any, create: Callable[..., StoreWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many units there are: of an object store each is a request."""
    data.fill(create())
    path, asked = create().path, []
    for verb in ("read", "size", "list", "exists", "read_into"):
        real = getattr(Files, verb)

        def counted(self: Files, name: str, *more: Any, real: Any = real) -> Any:
            asked.append(name)
            return real(self, name, *more)

        monkeypatch.setattr(Files, verb, counted)
    open_store(path)
    assert asked == ["MANIFEST.json", "MANIFEST.json", "SUMS.bin"]
