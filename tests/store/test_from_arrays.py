from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.store import Store, verify, write_store
from tests.store.conftest import everything

SMALL = {"chunk_mib": 0.001, "shard_mib": 0.002}


def agree(store: Store, site: str, x_NSD: torch.Tensor, trainable: torch.Tensor) -> None:
    """Trainable tokens of training units, and all of held-out ones, are as they were given."""
    is_held_out = torch.zeros(len(x_NSD), dtype=torch.bool)
    for sequences in store.held_out:
        is_held_out[sequences.start : sequences.stop] = True
    is_there = trainable | is_held_out[:, None]
    found_NSD = everything(store, site)
    assert torch.equal(found_NSD[is_there], x_NSD[is_there].to(store.dtype.compute))
    assert found_NSD[~is_there].isnan().all()


def test_blocks_of_odd_lengths_become_one_store_of_two_widths(tmp_path: Path) -> None:
    wide = torch.randn(101, 3, 8, generator=torch.Generator().manual_seed(0))
    narrow = wide[..., :5].double().numpy() * 2
    ids = torch.arange(303).reshape(101, 3)
    trainable = ids % 7 != 0
    store = write_store(
        tmp_path / "store",
        {"wide": iter(wide.split([1, 0, 60, 40])), "narrow": iter(np.split(narrow, [33, 34, 90]))},
        input_ids=ids.split(50),
        trainable=trainable,
        provenance={"from": "test"},
        **SMALL,  # type: ignore[arg-type]
    )
    assert (store.sites, store.layout.num_sequences) == ({"wide": 8, "narrow": 5}, 101)
    assert store.layout.num_units > 3 and verify(store.path, full=True) == []
    assert store.provenance["from"] == "test"
    agree(store, "wide", wide, trainable)
    agree(store, "narrow", wide.bfloat16()[..., :5] * 2, trainable)
    found = store.read_tokens(range(101))
    assert np.array_equal(found[0], ids.numpy()) and np.array_equal(found[1], trainable.numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_rows_without_positions_are_sequences_of_one(tmp_path: Path) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    store = write_store(
        tmp_path / "s",
        {"x": x},
        dtype="float32",
        held_out=0.0,
        **SMALL,  # type: ignore[arg-type]
    )
    assert torch.equal(everything(store, "x"), x[:, None])
    ids, trainable = store.read_tokens(range(50))
    assert (ids == -1).all() and trainable.all() and store.held_out == []


def test_shards_are_even_where_their_number_is_known_ahead(tmp_path: Path) -> None:
    x = torch.randn(35, 4, 8, generator=torch.Generator().manual_seed(0))
    sizes = {"chunk_mib": 2**-13, "shard_mib": 2**-9, "held_out": 0.0}  # chunks of 2, 32
    known = {"array": x, "list": x.split(20), "iterator": iter(x.split(20))}
    for name, blocks in known.items():
        store = write_store(tmp_path / name, {"x": blocks}, **sizes)  # type: ignore[arg-type]
        assert store.layout.shard_sequences == (32 if name == "iterator" else 18)
        assert torch.equal(everything(store, "x"), x.bfloat16())


NAN = torch.full((9, 2), float("nan"))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unequal totals": ({"arrays": {"a": [torch.ones(9, 2)], "b": [torch.ones(8, 2)]}}, "8 seq"),
    "no site": ({"arrays": {}}, "expected equal positions"),
    "empty site": ({"arrays": {"a": []}}, "expected equal positions"),
    "no rows": ({"arrays": {"a": [torch.ones(0, 2)]}}, "no sequence"),
    "integers": ({"arrays": {"a": [torch.ones(9, 2, dtype=torch.int)]}}, "expected floats"),
    "widths": ({"arrays": {"a": [torch.ones(9, 2), torch.ones(9, 3)]}}, "at site a"),
    "non-finite": ({"arrays": {"a": NAN}}, "site a.*NaN"),
    "overflow": ({"arrays": {"a": torch.full((9, 2), 1e6)}, "dtype": "float16"}, "site a.*NaN"),
    "dtype": (
        {"arrays": {"a": torch.ones(9, 2)}, "dtype": "float64"},
        "bfloat16, float16, float32",
    ),
    "few ids": ({"arrays": {"a": torch.ones(9, 2)}, "input_ids": torch.ones(7).int()}, "7 seq"),
    "large ids": (
        {"arrays": {"a": torch.ones(9, 2)}, "input_ids": torch.full((9,), 2**40)},
        "token ids up to",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_activations_leave_nothing_behind(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_store(tmp_path / "store", **{"held_out": 0.0, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_never_written_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="new path"):
        write_store(tmp_path, {"a": torch.ones(9, 2)})


@pytest.mark.parametrize("blocks", ["array", "list", "iterator"])
def test_a_small_store_sets_the_share_aside_that_was_asked_for(blocks: str, tmp_path: Path) -> None:
    rows = torch.randn(6000, 8)
    given = {"array": rows, "list": rows.split(1000), "iterator": iter(rows.split(1000))}[blocks]
    store = write_store(tmp_path / "store", {"in": given})
    held_out = sum(map(len, store.held_out))
    assert (store.layout.num_sequences, held_out) == (6000, 300)
    assert torch.equal(everything(store, "in").flatten(0, 1), rows.bfloat16())


def test_a_store_of_one_sequence_has_nothing_to_hold_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = write_store(tmp_path / "store", {"a": torch.ones(1, 2)})
    assert (store.held_out, store.chunk_rows.tolist()) == ([], [1])
    assert "nothing is held out" in capsys.readouterr().err
