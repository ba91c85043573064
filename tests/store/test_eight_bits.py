"""Stores in eight bits: what comes back, what a hole is, and that nothing else is different."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from sae_dist.common.dtypes import FloatDtype, from_storage, to_storage
from sae_dist.common.errors import UserError
from sae_dist.store import NonFinite, StoreWriter, open_store, verify
from sae_dist.store.unit import quantise, restored, statistics_of
from sae_dist.store.verify import Repair, audit
from tests.store.conftest import everything
from tests.store.damage import KINDS, damage

INT8 = FloatDtype.int8


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, with tokens of very different size."""
    generator = torch.Generator().manual_seed(seed)
    size = 10 ** torch.randint(-6, 6, shape[:2], generator=generator).float()
    return torch.randn(shape, generator=generator) * size[..., None]


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
    index = zarr.open_array(store.path / "rows/index", mode="r")[:]
    is_training = np.isin(np.arange(92).reshape(23, 4), index)
    for site, x_NSD in data.acts.items():
        found_NSD = everything(store, site)
        for folder, tokens in (("rows", index[index >= 0]), ("sequences", np.arange(24, 48))):
            q, s = (
                zarr.open_array(store.path / folder / kind / site, mode="r")[:]
                for kind in ("activations", "scales")
            )
            assert (q.dtype, s.dtype, q.shape[:-1]) == (np.int8, np.float32, s.shape)
            q, s = (q[index >= 0], s[index >= 0]) if folder == "rows" else (q[6:12], s[6:12])
            expected = torch.from_numpy(q).float() * torch.from_numpy(s)[..., None]
            found_TD = found_NSD.view(-1, x_NSD.shape[2])[torch.from_numpy(tokens)]
            assert torch.equal(found_TD, expected.bfloat16().view(found_TD.shape))
        is_there = found_NSD.isfinite()
        off = (found_NSD - x_NSD)[is_there].abs()
        assert off.max() < 0.02 * x_NSD.abs().max() and len(off) > is_there.numel() / 2
        by_hand = statistics_of(found_NSD, torch.from_numpy(is_training), 0)
        assert store.statistics(site).mean_square == pytest.approx(by_hand.mean_square, rel=1e-12)


def test_a_store_takes_half_the_bytes_and_a_scale_a_token(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.trainable[:] = True
    writer = create(dtype=INT8)
    needed = writer.bytes_needed()
    data.fill(writer)
    assert needed == sum(path.stat().st_size for path in writer.path.rglob("c.*"))
    for site, x_NSD in data.acts.items():
        sizes = {
            kind: (writer.path / "rows" / kind / site / name).stat().st_size
            for kind, name in (("activations", "c.0.0"), ("scales", "c.0"))
        }
        overhead = 2 * 4 + 2 * 16 + 4
        assert sizes == {
            "activations": 24 * x_NSD.shape[2] + overhead,
            "scales": 24 * 4 + overhead,
        }


@pytest.mark.parametrize("kind", ["activations", "scales"])
def test_a_hole_is_marked_in_both_arrays_and_refused_here(
    data: Any, create: Callable[..., StoreWriter], kind: str
) -> None:
    data.fill(create(dtype=INT8))
    store = open_store(create(dtype=INT8).path)
    next((store.path / "sequences" / kind / "out.0").glob("c.1.*")).unlink()
    hole = zarr.open_array(store.path / "sequences" / kind / "out.0", mode="r")[6:12]
    assert (hole == -128).all() if kind == "activations" else np.isnan(hole).all()
    with pytest.raises(UserError, match=rf"{kind}/out.0/c.1.0.* with chunk 0 damaged"):
        store.read_sequences("out.0", range(6, 12))


def test_tokens_that_are_not_finite_are_refused_or_dropped(
    data: Any, create: Callable[..., StoreWriter]
) -> None:
    data.trainable[:] = True
    data.acts["in.0"][7, 2, 4] = torch.nan
    with pytest.raises(UserError, match="unit 1, site in.0: found NaN or infinity at a trainable"):
        data.fill(create("fails", dtype=INT8))
    arrays = {site: to_storage(x_NSD, INT8) for site, x_NSD in data.acts.items()}
    writer = create("drops", dtype=INT8, non_finite=NonFinite.drop, shard_mib=1.0, held_out=0.0)
    writer.put_tokens(0, data.ids, data.trainable, None)
    writer.write_unit(0, arrays)
    writer.end_tokens(23, {})
    writer.seal()
    store = open_store(writer.path)
    assert store.manifest.dropped == {"in.0": 1}
    assert not store.read_tokens(range(7, 8))[1][0, 2]
    assert everything(store, "in.0")[7, 2].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_wherever_it_is(
    data: Any, create: Callable[..., StoreWriter], kind: str
) -> None:
    data.fill(create(dtype=INT8))
    root = create(dtype=INT8).path
    dice = random.Random(kind)
    for _ in range(8):
        paths, undo = damage(root / "rows" / "scales", kind, dice)
        found = audit(root, full=True, workers=1)
        assert {fault.path for fault in found.faults} == set(paths)
        units = {int(p.name.split(".")[1]) for p in paths if p.name.startswith("c.")}
        assert set(Repair(found).bad_units) == units
        undo()
    assert verify(root, full=True, workers=1) == []
