from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.store import Store, write_store
from sae_dist.stream import StoredActivations


def training_rows(store: Store, acts: Tensor, trainable: Tensor) -> Tensor:
    """The activations [n, 6] that may be trained on, in the store's order."""
    is_held_out = torch.zeros(len(acts), dtype=torch.bool)
    for run in store.held_out:
        is_held_out[run.start : run.stop] = True
    assert is_held_out.sum() == 40
    return acts[trainable & ~is_held_out[:, None]]


def sorted_rows(x_ND: Tensor) -> list[list[float]]:
    return sorted(x_ND.tolist())


def test_a_sample_is_the_same_whoever_asks(store: Store) -> None:
    first, second = StoredActivations(store), StoredActivations(store)
    one = first.sample(["in", "out"], 100, seed=3)
    other = second.sample(["out", "in"], 100, seed=3)
    assert torch.equal(one["in"], other["in"]) and torch.equal(one["out"], other["out"])
    assert torch.equal(one["in"], first.sample(["in"], 100, seed=3)["in"])
    assert not torch.equal(one["in"], first.sample(["in"], 100, seed=4)["in"])
    assert one["in"].shape == (100, 6) and one["in"].dtype == torch.bfloat16


def test_a_sample_pairs_its_sites(store: Store) -> None:
    sample = StoredActivations(store).sample(["in", "out"], 500, seed=0)
    assert torch.equal(sample["out"], sample["in"][:, :3] * 2)


def test_a_sample_has_only_rows_that_are_trained_on(
    store: Store, acts: Tensor, trainable: Tensor
) -> None:
    allowed = training_rows(store, acts, trainable)
    everything = StoredActivations(store).sample(["in"], 10**6, seed=0)["in"]
    assert sorted_rows(everything) == sorted_rows(allowed)
    some = StoredActivations(store).sample(["in"], 50, seed=0)["in"]
    assert len(some) == 50 and set(map(tuple, some.tolist())) <= set(map(tuple, allowed.tolist()))


def test_a_sample_is_drawn_from_many_units(store: Store, acts: Tensor) -> None:
    rows = {tuple(x): i // 80 for i, x in enumerate(acts.flatten(0, 1).tolist())}
    sample = StoredActivations(store).sample(["in"], 60, seed=0)["in"]
    assert len({rows[tuple(x)] for x in sample.tolist()}) > 14


def test_the_mean_square_is_that_of_the_rows_that_are_trained_on(
    store: Store, acts: Tensor, trainable: Tensor
) -> None:
    source = StoredActivations(store)
    expected = training_rows(store, acts, trainable).double().square().sum(1).mean()
    assert source.mean_square("in") == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(UserError, match="no site 'mid'"):
        source.mean_square("mid")


def test_a_source_says_what_it_is(store: Store) -> None:
    source = StoredActivations(store)
    assert source.widths == {"in": 6, "out": 3}
    assert source.identity == store.hash
    assert source.about["store"] == str(store.path) and "lm" not in source.about


def test_a_store_without_trainable_tokens_is_refused(tmp_path: Path) -> None:
    nothing = torch.zeros(20, dtype=torch.bool)
    bare = write_store(tmp_path / "store", {"in": torch.ones(20, 2)}, trainable=nothing, held_out=0)
    with pytest.raises(UserError, match="no trainable tokens"):
        StoredActivations(bare).sample(["in"], 5, seed=0)
