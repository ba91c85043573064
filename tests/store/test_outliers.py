"""Tokens whose activations are not finite or far too long: dropped, counted, never trained on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sae_dist.common.errors import UserError
from sae_dist.store import Store, StoreWriter, open_store, verify
from sae_dist.store.config import NonFinite
from sae_dist.store.unit import DROPPED
from sae_dist.store.verify import Repair, audit
from tests.harvest.tiny import contents
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
    monkeypatch.setattr("sae_dist.store.unit._LARGEST_SHARE", 0.2)


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
    marks = store.read_marked_tokens(range(SEQUENCES))[1]
    assert np.argwhere(marks == DROPPED).tolist() == sorted(map(list, (LONG, BAD, BOTH)))
    assert (store.manifest.dropped, store.manifest.num_dropped) == ({"in.0": 2, "out.0": 2}, 3)
    is_training = np.repeat([True, False, True, True], 6)[:SEQUENCES, None]
    index = np.concatenate([store.read_index(c) for c in range(len(store.chunk_rows))])
    assert sorted(index) == np.flatnonzero(kept & is_training).tolist()
    for site in WIDTHS:
        x_TD = spoilt.acts[site].bfloat16()[torch.from_numpy(kept & is_training)].double()
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
    assert store.manifest.dropped == {"in.0": 1}


def test_more_than_a_few_are_refused(spoilt: Data, create: Callable[..., StoreWriter]) -> None:
    writer = create(non_finite=DROP)
    with pytest.raises(
        UserError, match=r"unit 0: found 1 of \d+ trainable tokens to drop \{'out\.0': 1\}; .* 2%"
    ):
        spoilt.fill(writer)
    assert writer.missing() == [0, 1, 2, 3] and not list(writer.path.rglob("*.tmp"))


def test_a_limit_below_the_median_is_refused(create: Callable[..., StoreWriter]) -> None:
    with pytest.raises(UserError, match=r"max_norm=1.0; expected more than 1, or null"):
        create(max_norm=1.0)


def test_where_nothing_is_dropped_only_the_settings_differ(
    data: Data, create: Callable[..., StoreWriter]
) -> None:
    careful = {"non_finite": DROP, "max_norm": 50.0}
    for name, changes in (("plain", {}), ("careful", careful)):
        data.fill(create(name, **changes))
    plain, other = (open_store(create(n, **c).path).manifest for n, c in
                    (("plain", {}), ("careful", careful)))  # fmt: skip
    assert other.sums == plain.sums and other.settings.max_norm == 50.0
    assert plain.settings.non_finite is NonFinite.fail and plain.settings.max_norm is None
    with pytest.raises(UserError, match=r"max_norm=50.*max_norm=9"):
        create("careful", non_finite=DROP, max_norm=9.0)


@pytest.mark.usefixtures("generous")
def test_a_unit_is_mended_with_what_was_dropped(
    spoilt: Data, create: Callable[..., StoreWriter]
) -> None:
    """Where the tokens are whole: from these alone, though the longest are out of the median."""
    writer = create(non_finite=DROP, max_norm=50.0)
    spoilt.fill(writer)
    before = contents(writer.path)
    for file in ("rows/index/c.0", "sequences/activations/in.0/c.1.0.0"):
        (writer.path / file).unlink()
    repair = Repair(audit(writer.path, full=True, workers=1))
    assert (repair.bad_units, repair.bad_tokens) == ([0, 1], [])
    repair.mend_records()
    for unit in repair.bad_units:
        repair.rewrite(unit, spoilt.shard(writer, unit), *repair.read_tokens(unit))
    assert repair.finish()
    assert contents(writer.path) == before
