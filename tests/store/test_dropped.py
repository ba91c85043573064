"""Tokens whose activations are not finite or far too long: dropped, counted, never trained on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.store import Store, StoreWriter, open_store, verify
from sae_dist.store.config import NonFinite
from sae_dist.store.dropped import Dropped
from sae_dist.store.repair import mend_commits, plan_repair
from sae_dist.store.verify import audit
from tests.store.conftest import SEQUENCES, WIDTHS, Data

DROP = NonFinite.drop
LONG, BAD, BOTH = (7, 1), (2, 3), (11, 2)  # (sequence, position), all of them trainable


@pytest.fixture
def spoilt(data: Data) -> Data:
    """One token too long at one site, one not finite at the other, one both."""
    assert all(data.trainable[token] for token in (LONG, BAD, BOTH))
    data.acts["in.0"][LONG] *= 1000
    data.acts["out.0"][BAD][1] = float("nan")
    data.acts["in.0"][BOTH][0] = float("-inf")
    data.acts["out.0"][BOTH] *= 1000
    data.acts["in.0"][0, 0] = float("nan")  # not trainable
    return data


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 24 tokens are too small for a share of 2 %."""
    monkeypatch.setattr("sae_dist.store.dropped._MOST", 0.2)


def trainable(store: Store) -> np.ndarray:
    """Of every sequence [N, S]."""
    return store.read_tokens(range(SEQUENCES))[1]


@pytest.mark.usefixtures("generous")
def test_dropped_tokens_are_counted_and_left_out_everywhere(
    spoilt: Data, create: Callable[..., StoreWriter]
) -> None:
    writer = create(non_finite=DROP, max_norm=50.0)
    spoilt.fill(writer)
    store = open_store(writer.path)
    kept = spoilt.trainable.copy()
    for token in (LONG, BAD, BOTH):
        kept[token] = False
    assert np.array_equal(trainable(store), kept)
    assert np.array_equal(store.read_tokens(range(3, 9))[1], kept[3:9])
    chunks = [kept[n : n + 6, p : p + 2] for n in range(0, SEQUENCES, 6) for p in (0, 2)]
    assert all(np.array_equal(store.read_trainable(c), part) for c, part in enumerate(chunks))
    assert store.trainable_counts().tolist() == [part.sum() for part in chunks]
    assert {s: record.dropped for s, record in store.manifest.sites.items()} == {
        "in.0": 2,
        "out.0": 2,
    }
    held_out = np.repeat(np.isin(np.arange(4), store.manifest.held_out), 6)[:SEQUENCES]
    for site in WIDTHS:
        x_TD = spoilt.acts[site].bfloat16()[torch.from_numpy(kept & ~held_out[:, None])].double()
        found = store.statistics(site)
        assert found.count == len(x_TD)
        np.testing.assert_allclose(found.mean, x_TD.mean(0).numpy(), rtol=1e-6)
    assert verify(writer.path, full=True) == []


@pytest.mark.usefixtures("generous")
def test_without_dropping_what_is_not_finite_is_refused_however_long(
    spoilt: Data, create: Callable[..., StoreWriter]
) -> None:
    writer = create(max_norm=50.0)
    with pytest.raises(UserError, match=r"unit 0, site out\.0: .* of sequence 2; .*=drop"):
        spoilt.fill(writer)


@pytest.mark.usefixtures("generous")
def test_a_length_alone_leaves_what_is_not_finite_to_be_refused(
    data: Data, create: Callable[..., StoreWriter]
) -> None:
    data.acts["in.0"][LONG] *= 1000
    writer = create(max_norm=50.0)
    data.fill(writer)
    store = open_store(writer.path)
    assert (trainable(store) != data.trainable).nonzero() == tuple([i] for i in LONG)
    assert b"dropped" not in (writer.path / "commits/00000.json").read_bytes()


def test_more_than_a_few_are_refused(spoilt: Data, create: Callable[..., StoreWriter]) -> None:
    writer = create(non_finite=DROP)
    with pytest.raises(
        UserError, match=r"unit 0: found 1 of \d+ trainable tokens to drop \{'out\.0': 1\}; .* 2%"
    ):
        spoilt.fill(writer)
    assert writer.missing() == [0, 1, 2, 3] and not list(writer.path.rglob("*.tmp"))


def test_a_limit_below_the_median_is_refused(create: Callable[..., StoreWriter]) -> None:
    with pytest.raises(UserError, match=r"writer.max_norm=1.*; expected more than 1, or null"):
        create(max_norm=1.0)


def test_where_nothing_is_dropped_only_the_settings_differ(
    data: Data, create: Callable[..., StoreWriter]
) -> None:
    careful = {"non_finite": DROP, "max_norm": 50.0}
    for name, changes in (("plain", {}), ("careful", careful)):
        data.fill(create(name, **changes))
    plain, other = (open_store(create(n, **c).path).manifest for n, c in
                    (("plain", {}), ("careful", careful)))  # fmt: skip
    assert other.shards == plain.shards and other.settings.max_norm == 50.0
    assert plain.settings.non_finite is NonFinite.fail and plain.settings.max_norm is None
    with pytest.raises(UserError, match=r"max_norm=50.*max_norm=9"):
        create("careful", non_finite=DROP, max_norm=9.0)


@pytest.mark.parametrize("positions", [(), (-1,), (24,), (3, 3), (4, 2), (*range(25),)])
def test_positions_that_cannot_be_are_said(positions: tuple[int, ...]) -> None:
    dropped = Dropped(positions=positions, per_site={"in.0": 1})
    (problem,) = dropped.problems(3, 24)
    assert "dropped tokens (" in problem and "in unit 3; expected 0 to 23" in problem


def test_what_is_dropped_survives_its_json() -> None:
    dropped = Dropped(positions=(0, 7, 23), per_site={"in.0": 3})
    assert Dropped.from_json(dropped.to_json()) == dropped
    assert list(dropped.problems(0, 24)) == []


@pytest.mark.usefixtures("generous")
def test_a_lost_commit_is_made_again_with_what_was_dropped(
    spoilt: Data, create: Callable[..., StoreWriter]
) -> None:
    writer = create(non_finite=DROP, max_norm=50.0)
    spoilt.fill(writer)
    lost = writer.path / "commits" / "00000.json"
    before = lost.read_bytes()
    lost.unlink()
    mend_commits(plan_repair(audit(writer.path, full=True, workers=1)))
    assert lost.read_bytes() == before and b"dropped" in before
    assert verify(writer.path, full=True) == []
