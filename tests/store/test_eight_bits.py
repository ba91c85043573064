"""Stores in eight bits: what comes back, what a hole is, and that nothing else is different."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from sae_dist.common.dtypes import FloatDtype, from_storage, to_storage
from sae_dist.common.errors import UserError
from sae_dist.store import NonFinite, Store, StoreWriter, open_store, verify
from sae_dist.store.eight_bits import quantise, restored
from sae_dist.store.repair import mend_commits, plan_repair
from sae_dist.store.statistics import statistics_of
from sae_dist.store.verify import audit
from tests.store.damage import KINDS, damage

INT8 = FloatDtype.int8


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, with tokens of very different size."""
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** torch.randint(-6, 6, shape[:2], generator=generator).float()
    return torch.randn(shape, generator=generator) * size[..., None]


def read_all(store: Store, site: str) -> torch.Tensor:
    return from_storage(store.read_sequences(site, range(store.layout.num_sequences)), store.dtype)


@pytest.mark.parametrize("width", [1, 7, 40_000])
def test_a_value_is_off_by_half_a_step_and_bfloat16s_rounding(width: int) -> None:
    x_NSD = numbers(3, 5, width).bfloat16()
    q, s = quantise(to_storage(x_NSD, INT8))
    assert (q.dtype, s.dtype, s.shape) == (np.int8, np.float32, (3, 5))
    assert q.min() >= -127 and np.abs(q).max(2).tolist() == [[127] * 5] * 3
    found_NSD = from_storage(restored(q, s), INT8)
    assert found_NSD.dtype is torch.bfloat16
    off = (found_NSD.float() - x_NSD.float()).abs()
    step_NS1 = x_NSD.float().abs().amax(2, keepdim=True) / 127
    assert (off <= 0.5001 * step_NS1 + 2**-8 * found_NSD.float().abs()).all()
    largest = x_NSD.abs().argmax(2, keepdim=True)
    assert torch.equal(found_NSD.gather(2, largest), x_NSD.gather(2, largest))


def test_zeros_stay_zeros_and_what_is_not_finite_is_nan() -> None:
    x_NSD = numbers(1, 5, 6).bfloat16()
    x_NSD[0, 0], x_NSD[0, 1, 3], x_NSD[0, 2, 3], x_NSD[0, 3] = 0, torch.nan, torch.inf, 1e-40
    found_NSD = from_storage(restored(*quantise(to_storage(x_NSD, INT8))), INT8)
    assert (found_NSD[0, 0] == 0).all() and (found_NSD[0, 3].abs() <= 1e-39).all()
    assert found_NSD[0, 1:3].isnan().all() and found_NSD[0, 4].isfinite().all()


def test_all_ways_of_reading_agree_with_plain_zarr_arrays(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create(dtype=INT8))
    store = open_store(create(dtype=INT8).path)
    assert verify(store.path, full=True, workers=1) == []
    for site, x_NSD in data.acts.items():
        q, s = (zarr.open_array(store.path / f / site, mode="r") for f in ("activations", "scales"))
        assert (q.dtype, s.dtype, q.shape[:2]) == (np.int8, np.float32, s.shape)
        expected = torch.from_numpy(q[:]).float() * torch.from_numpy(s[:])[..., None]
        found_NSD = read_all(store, site)
        assert torch.equal(found_NSD, expected.bfloat16())
        assert (found_NSD - x_NSD).abs().max() < 0.02 * x_NSD.abs().max()
        for chunk in range(store.layout.num_chunks):
            values = store.read_chunk(site, chunk)
            shape = (store.layout.chunk_sequences, store.layout.chunk_positions, x_NSD.shape[2])
            out = np.empty(shape, INT8.storage)
            store.read_chunk_into(site, chunk, out)
            assert np.array_equal(out[: len(values)], values)
            assert from_storage(out[len(values) :], INT8).isnan().all()
        training = [n for n in range(23) if n // 6 not in store.manifest.held_out]
        by_hand = statistics_of(found_NSD[training], torch.from_numpy(data.trainable[training]), 0)
        assert store.statistics(site).mean_square == pytest.approx(by_hand.mean_square, rel=1e-12)


def test_a_store_takes_half_the_bytes_and_a_scale_a_token(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    writer = create(dtype=INT8)
    writer.write_tokens(data.blocks(), dict)
    needed = writer.bytes_needed()
    data.fill(writer)
    store = open_store(writer.path)
    files = {file: r.bytes for shard in store.manifest.shards for file, r in shard.files.items()}
    assert needed == sum(size for file, size in files.items() if not file.startswith("tokens/"))
    overhead = store.layout.num_chunks * 4 + store.layout.num_shards * (2 * 16 + 4)
    padded = 24 * 4  # tokens: the last chunks are filled up
    for site, x_NSD in data.acts.items():
        found = {
            folder: sum(size for file, size in files.items() if file.startswith(f"{folder}/{site}"))
            for folder in ("activations", "scales")
        }
        expected = {"activations": padded * x_NSD.shape[2], "scales": padded * 4}
        assert found == {folder: size + overhead for folder, size in expected.items()}


@pytest.mark.parametrize("folder", ["activations", "scales"])
def test_a_hole_is_marked_in_both_arrays_and_refused_here(
    data: Any, create: Callable[..., StoreWriter], folder: str
) -> None:
    data.fill(create(dtype=INT8))
    store = open_store(create(dtype=INT8).path)
    next((store.path / folder / "out.0").glob("c.1.*")).unlink()
    hole = zarr.open_array(store.path / folder / "out.0", mode="r")[6:12]
    assert (hole == -128).all() if folder == "activations" else np.isnan(hole).all()
    with pytest.raises(UserError, match=rf"chunk 2 damaged in .*{folder}/out.0/c.1.0"):
        store.read_chunk("out.0", 2)


def test_tokens_that_are_not_finite_are_refused_or_dropped(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.trainable[:] = True
    data.acts["in.0"][7, 2, 4] = torch.nan
    with pytest.raises(UserError, match="unit 1, site in.0: found NaN or infinity at a trainable"):
        data.fill(create("fails", dtype=INT8))
    writer = create("drops", dtype=INT8, non_finite=NonFinite.drop, shard_mib=1.0, held_out=0.0)
    data.fill(writer)
    store = open_store(writer.path)
    assert store.manifest.sites["in.0"].dropped == 1
    assert not store.read_tokens(range(7, 8))[1][0, 2]
    assert read_all(store, "in.0")[7, 2].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_wherever_it_is(
    data: Any, create: Callable[..., StoreWriter], kind: str
) -> None:
    data.fill(create(dtype=INT8))
    root = create(dtype=INT8).path
    dice = random.Random(kind)
    for _ in range(8):
        paths, undo = damage(root / "scales", kind, dice)
        faults = audit(root, full=True, workers=1).faults
        assert {fault.path for fault in faults} & set(paths)
        plan = plan_repair(audit(root, full=True, workers=1))
        shards = {int(p.name.split(".")[1]) for p in paths if p.name.startswith("c.")}
        assert shards <= set(plan.bad_units)
        undo()
    assert verify(root, full=True, workers=1) == []


def test_a_lost_commit_is_made_again_from_the_files(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.fill(create(dtype=INT8))
    root: Path = create(dtype=INT8).path
    commit = root / "commits" / "00001.json"
    before = commit.read_bytes()
    commit.unlink()
    mend_commits(plan_repair(audit(root, full=True, workers=1)))
    assert commit.read_bytes() == before
