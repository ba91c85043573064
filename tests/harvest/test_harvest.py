import importlib
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.harvest import HarvestLoopConfig, Processes, harvest
from sae_dist.lm import Capture, resolve
from sae_dist.parallel import World
from sae_dist.store import Store, StoreWriter, open_store, verify
from tests.harvest.tiny import (
    NUM_SEQUENCES,
    POSITIONS,
    SITES,
    contents,
    tiny_harvest,
    tiny_writer,
    tokens,
)
from tests.lm.tiny import tiny_model
from tests.processes import run_on

Usage = namedtuple("Usage", "free")


class Stopped(Exception):
    """The harvest is interrupted here."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store harvested on one thread, as `run_on` does."""
    found = tmp_path_factory.mktemp("harvest") / "store"
    run_on(1, harvest_on, found)
    return found


def harvest_on(world: World, path: Path, in_step: bool = False) -> int:
    """Harvest as one of the world's processes; the number of its forward passes."""
    passes: list[int] = []
    processes = Processes(world.rank, world.size, world.device, in_step)
    tiny_harvest(path, processes=processes, seen=lambda ids_NS: passes.append(len(ids_NS)))
    return len(passes)


def whole(store: Store, site: str) -> Tensor:
    """Every activation of a site [N, S, D]."""
    return from_storage(store.read_sequences(site, range(store.layout.num_sequences)), store.dtype)


def all_tokens(store: Store) -> tuple[Tensor, Tensor]:
    """Every sequence [N, S], and where it may be trained on."""
    ids_NS, trainable_NS = store.read_tokens(range(store.layout.num_sequences))
    return torch.from_numpy(ids_NS), torch.from_numpy(trainable_NS)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_store_holds_what_a_direct_forward_pass_gives(tmp_path: Path, family: str) -> None:
    tiny_harvest(tmp_path / "store", family)
    store, model = open_store(tmp_path / "store"), tiny_model(family)
    ids_NS, trainable_NS = all_tokens(store)
    expected_NS, expected_trainable_NS = next(tokens()[0])
    assert ids_NS.shape == (NUM_SEQUENCES, POSITIONS)
    assert np.array_equal(ids_NS, expected_NS)
    assert np.array_equal(trainable_NS, expected_trainable_NS)
    assert torch.equal(trainable_NS, ids_NS != 0) and not trainable_NS[:, 0].any()
    hidden = model(ids_NS.long(), output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(whole(store, "resid_post.1"), hidden)
    acts = Capture(model, [resolve(model, name) for name in SITES])(ids_NS)
    for site in SITES:
        torch.testing.assert_close(whole(store, site), acts[site])
    assert store.manifest.provenance["lm"] == {"name": "tiny", "commit": "none"}


def test_a_store_in_eight_bits_holds_nearly_that(tmp_path: Path, path: Path) -> None:
    tiny_harvest(tmp_path / "store", dtype=FloatDtype.int8)
    store, exact = open_store(tmp_path / "store"), open_store(path)
    assert verify(store.path, full=True) == [] and store.layout == exact.layout
    for site in SITES:
        x_NSD, found_NSD = whole(exact, site), whole(store, site).float()
        step_NS1 = x_NSD.abs().amax(2, keepdim=True) / 127
        assert ((found_NSD - x_NSD).abs() <= 0.51 * step_NS1 + 2**-7 * x_NSD.abs()).all()


def test_statistics_are_those_of_the_tokens_that_training_reads(path: Path) -> None:
    store = open_store(path)
    trainable_NS = all_tokens(store)[1].numpy()
    for held in store.held_out_sequences():
        assert len(held) == 6
        trainable_NS[held.start : held.stop] = False
    assert len(store.held_out_sequences()) == 2  # of eight shards
    for site in SITES:
        x_TD = whole(store, site).numpy()[trainable_NS].astype(np.float64)
        found = store.statistics(site)
        assert found.count == len(x_TD)
        assert np.all(np.abs(found.mean - x_TD.mean(0)) <= 1e-6 * np.abs(x_TD).mean(0))
        np.testing.assert_allclose(found.mean_square, (x_TD**2).sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    path: Path, tmp_path: Path, world: int
) -> None:
    assert sum(run_on(world, harvest_on, tmp_path / "store")) == 15
    assert contents(tmp_path / "store") == contents(path)


def test_processes_in_step_run_equally_many_passes(path: Path, tmp_path: Path) -> None:
    assert run_on(3, harvest_on, tmp_path / "store", True) == [6, 6, 6]
    assert contents(tmp_path / "store") == contents(path)


@pytest.mark.parametrize("num_passes", [0, 1, 5, 14])
def test_an_interrupted_harvest_goes_on_to_the_same_bytes(
    path: Path, tmp_path: Path, num_passes: int
) -> None:
    assert run_on(1, stop_and_go_on, tmp_path / "store", num_passes) == [True]
    assert contents(tmp_path / "store") == contents(path)


def stop_and_go_on(world: World, path: Path, num_passes: int) -> bool:
    """Stop after some passes and go on; whether what was committed was left alone."""
    left = iter(range(num_passes))

    def stop(ids_NS: Tensor) -> None:
        if next(left, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        tiny_harvest(path, seen=stop)
    with pytest.raises(UserError, match="unsealed"):
        open_store(path)
    passes: list[Tensor] = []
    committed = {name: data for name, data in contents(path).items() if name.startswith("commits")}
    num_shards = len(committed) - 1  # one commit is the tokens'
    tiny_harvest(path, seen=passes.append)
    assert len(passes) == 15 - 2 * num_shards
    return committed.items() <= contents(path).items()


def test_a_disk_that_is_too_small_is_refused_before_any_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(free=1000))
    passes: list[Tensor] = []
    with pytest.raises(UserError, match=r"GB free .* expected 0\.000\d+ GB"):
        tiny_harvest(tmp_path / "store", seen=passes.append)
    assert not passes
    monkeypatch.undo()
    tiny_harvest(tmp_path / "store")
    assert verify(tmp_path / "store", full=True) == []


def test_the_size_told_beforehand_is_that_of_the_files(path: Path, tmp_path: Path) -> None:
    writer = tiny_writer(tmp_path / "store")
    writer.write_tokens(*tokens())
    shards = list(path.glob("activations/*/c.*"))
    assert len(shards) == 3 * 8
    assert writer.bytes_needed() == sum(file.stat().st_size for file in shards)


def test_a_batch_without_sequences_is_refused(tmp_path: Path) -> None:
    writer, model = tiny_writer(tmp_path / "store"), tiny_model("llama")
    capture = Capture(model, [resolve(model, "embed")])
    processes = Processes(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="batch_sequences=0; expected at least 1"):
        harvest(writer, capture, tokens, HarvestLoopConfig(batch_sequences=0), processes)
    assert not writer.tokens_ready()


def test_two_shards_are_held_and_none_is_touched_while_it_is_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = set()
    write_shard = StoreWriter.write_shard

    def slow(writer: StoreWriter, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        before = {site: array.copy() for site, array in arrays.items()}
        places.update(array.ctypes.data for array in arrays.values())
        time.sleep(0.1)  # long enough for the next units to be computed
        assert all(np.array_equal(array, before[site]) for site, array in arrays.items())
        return write_shard(writer, unit, arrays)

    monkeypatch.setattr(StoreWriter, "write_shard", slow)
    tiny_harvest(tmp_path / "store")
    assert len(places) == 2 * len(SITES)
    assert verify(tmp_path / "store", full=True) == []


def test_a_round_without_a_unit_leaves_what_is_being_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("sae_dist.harvest.harvest")  # its name is a function's too
    rounds = iter([[0, 1], [2], [3, 4], None])  # what two processes in step take together
    written = {}

    def slow(writer: StoreWriter, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        time.sleep(0.2)  # long enough for the next rounds to be computed
        written[unit] = {site: array.copy() for site, array in arrays.items()}
        return True

    monkeypatch.setattr(module, "next_units", lambda writer, locks, processes: next(rounds))
    monkeypatch.setattr(module, "together", lambda work, processes: work())
    monkeypatch.setattr(StoreWriter, "write_shard", slow)
    writer, model = tiny_writer(tmp_path / "store"), tiny_model("llama")
    writer.write_tokens(*tokens())
    capture = Capture(model, [resolve(model, name) for name in SITES])
    second = Processes(1, 2, torch.device("cpu"), in_step=True)
    module._fill(writer, capture, HarvestLoopConfig(batch_sequences=4), second, None)
    assert written.keys() == {1, 4}
    for unit, arrays in written.items():
        expected = capture(torch.from_numpy(writer.read_tokens(unit)[0]))
        for site in SITES:
            torch.testing.assert_close(torch.from_numpy(arrays[site]), expected[site])


def test_the_bar_counts_tokens_and_moves_with_every_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    class Bar:
        def __init__(self, total: int, initial: int, **options: object) -> None:
            self.total, self.n = total, initial

        def update(self, moved: int) -> None:
            self.n += moved
            shown.append(self.n)

        def close(self) -> None:
            assert self.n == self.total == NUM_SEQUENCES * POSITIONS

    monkeypatch.setattr("sae_dist.harvest.bar.progress", Bar)
    tiny_harvest(tmp_path / "store")
    assert sorted(shown) == shown
    assert max(np.diff([0, *shown])) == 4 * POSITIONS  # a pass
