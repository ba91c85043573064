import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.harvest import HarvestLoopConfig, Processes, Text, UnitTokens, fill_store
from sae_dist.harvest.harvest import Harvester
from sae_dist.harvest.units import Units
from sae_dist.lm import Capture, resolve
from sae_dist.parallel import World
from sae_dist.store import Store, StoreWriter, open_store, verify
from sae_dist.store.records import commit_file
from tests.harvest.tiny import (
    NUM_SEQUENCES,
    POSITIONS,
    SITES,
    contents,
    tiny_harvest,
    tiny_writer,
    tokens,
    with_tokens,
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


def harvest_on(world: World, path: Path) -> int:
    """Harvest as one of the world's processes; the number of its forward passes."""
    passes: list[int] = []
    processes = Processes(world.rank, world.size, world.device, store=world.store)
    tiny_harvest(path, processes=processes, seen=lambda ids_NS: passes.append(len(ids_NS)))
    return len(passes)


def whole(store: Store, site: str) -> tuple[Tensor, Tensor]:
    """Every activation of a site [N, S, D] that is stored, and which are: NaN stands for others."""
    shape = (store.layout.num_sequences, store.layout.sequence_length)
    x_TD = torch.full((shape[0] * shape[1], store.sites[site]), torch.nan)
    for chunk in range(len(store.chunk_rows)):
        rows_RD = from_storage(store.read_rows(site, chunk), store.dtype)
        x_TD[torch.from_numpy(store.read_index(chunk))] = rows_RD.float()
    x_NSD = x_TD.view(*shape, -1)
    for held in store.held_out:
        x_NSD[held.start : held.stop] = from_storage(
            store.read_sequences(site, held), store.dtype
        ).float()
    return x_NSD, x_NSD.isfinite().all(2)


def all_tokens(store: Store) -> tuple[Tensor, Tensor]:
    """Every sequence [N, S], and where it may be trained on."""
    ids_NS, trainable_NS = store.read_tokens(range(store.layout.num_sequences))
    return torch.from_numpy(ids_NS), torch.from_numpy(trainable_NS)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_store_holds_what_a_direct_forward_pass_gives(tmp_path: Path, family: str) -> None:
    tiny_harvest(tmp_path / "store", family)
    store, model = open_store(tmp_path / "store"), tiny_model(family)
    ids_NS, trainable_NS = all_tokens(store)
    expected = list(tokens().units)
    expected_NS = np.concatenate([unit.ids_NS for unit in expected])
    expected_trainable_NS = np.concatenate([unit.trainable_NS for unit in expected])
    assert ids_NS.shape == (NUM_SEQUENCES, POSITIONS)
    assert np.array_equal(ids_NS, expected_NS)
    assert np.array_equal(trainable_NS, expected_trainable_NS)
    assert torch.equal(trainable_NS, ids_NS != 0) and not trainable_NS[:, 0].any()
    hidden = model(ids_NS.long(), output_hidden_states=True).hidden_states[2]
    acts = Capture(model, [resolve(model, name) for name in SITES])(ids_NS)
    torch.testing.assert_close(acts["resid_post.1"], hidden)
    is_held_out_N = torch.zeros(NUM_SEQUENCES, dtype=torch.bool)
    for held in store.held_out:
        is_held_out_N[held.start : held.stop] = True
    for site in SITES:
        x_NSD, stored_NS = whole(store, site)
        assert torch.equal(stored_NS, trainable_NS | is_held_out_N[:, None])
        torch.testing.assert_close(x_NSD[stored_NS], acts[site][stored_NS])
    assert store.provenance["lm"] == {"name": "tiny", "commit": "none"}


def test_a_store_in_eight_bits_holds_nearly_that(tmp_path: Path, path: Path) -> None:
    tiny_harvest(tmp_path / "store", dtype=FloatDtype.int8)
    store, exact = open_store(tmp_path / "store"), open_store(path)
    assert verify(store.path, full=True) == [] and store.layout == exact.layout
    for site in SITES:
        (x_NSD, stored_NS), (found_NSD, same_NS) = whole(exact, site), whole(store, site)
        assert torch.equal(stored_NS, same_NS)
        x_RD, found_RD = x_NSD[stored_NS], found_NSD[stored_NS]
        step_R1 = x_RD.abs().amax(1, keepdim=True) / 127
        assert ((found_RD - x_RD).abs() <= 0.51 * step_R1 + 2**-7 * x_RD.abs()).all()


def test_statistics_are_those_of_the_tokens_that_training_reads(path: Path) -> None:
    store = open_store(path)
    trainable_NS = all_tokens(store)[1].numpy()
    for held in store.held_out:
        assert len(held) == 6
        trainable_NS[held.start : held.stop] = False
    assert len(store.held_out) == 2  # of eight shards
    for site in SITES:
        x_TD = whole(store, site)[0].numpy()[trainable_NS].astype(np.float64)
        found = store.statistics(site)
        assert found.count == len(x_TD)
        assert np.all(np.abs(found.mean - x_TD.mean(0)) <= 1e-6 * np.abs(x_TD).mean(0))
        np.testing.assert_allclose(found.mean_square, (x_TD**2).sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_any_number_of_processes_gives_the_same_bytes(
    path: Path, tmp_path: Path, world: int
) -> None:
    assert sum(run_on(world, harvest_on, tmp_path / "store")) == 15
    assert contents(tmp_path / "store") == contents(path)


def slow_tokens(first: int, begin: Any) -> Text:
    """Units that come one by one, each later than a round takes."""
    text = tokens(first, begin)

    def units() -> Iterator[UnitTokens]:
        for unit in text.units:
            time.sleep(0.3)
            yield unit

    return Text(units(), text.fingerprint)


def harvest_in_step(world: World, path: Path) -> int:
    """The number of this process' forward passes."""
    passes: list[int] = []
    processes = Processes(world.rank, world.size, world.device, in_step=True, store=world.store)
    tiny_harvest(path, "llama", processes, lambda ids_NS: passes.append(1), text=slow_tokens)
    return len(passes)


def test_processes_in_step_wait_for_a_unit_each_and_run_equally_many_passes(
    path: Path, tmp_path: Path
) -> None:
    assert run_on(3, harvest_in_step, tmp_path / "store") == [6, 6, 6]  # three rounds of two
    assert contents(tmp_path / "store") == contents(path)


def test_an_interrupted_harvest_goes_on_to_the_same_bytes(path: Path, tmp_path: Path) -> None:
    stops = [0, 1, 5, 14]
    assert run_on(1, stop_each_and_go_on, tmp_path, stops) == [[True] * len(stops)]
    for num_passes in stops:
        assert contents(tmp_path / str(num_passes)) == contents(path), num_passes


def stop_each_and_go_on(world: World, folder: Path, stops: list[int]) -> list[bool]:
    return [stop_and_go_on(folder / str(num_passes), num_passes) for num_passes in stops]


def stop_and_go_on(path: Path, num_passes: int) -> bool:
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
    done = tiny_writer(path).committed()
    shards = {name: data for name, data in contents(path).items() if name.startswith("rows/act")}
    tiny_harvest(path, seen=passes.append)
    assert len(passes) == 15 - sum(1 if unit == 7 else 2 for unit in done)
    return {n: d for n, d in shards.items() if ".tmp" not in n}.items() <= contents(path).items()


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
    needed = with_tokens(tiny_writer(tmp_path / "store")).bytes_needed()
    found = sum(file.stat().st_size for file in path.rglob("c.*"))
    assert len(list(path.glob("rows/activations/*/c.*"))) == 3 * 6
    assert 0.8 * needed < found <= needed  # not every token is trained on


def test_a_batch_without_sequences_is_refused(tmp_path: Path) -> None:
    writer, model = tiny_writer(tmp_path / "store"), tiny_model("llama")
    capture = Capture(model, [resolve(model, "embed")])
    processes = Processes(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="batch_sequences=0; expected .*at least 1"):
        fill_store(writer, capture, tokens, HarvestLoopConfig(batch_sequences=0), processes)
    assert not writer.has_tokens(0)


def test_two_shards_are_held_and_none_is_touched_while_it_is_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = set()
    write_unit = StoreWriter.write_unit

    def slow(writer: StoreWriter, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        before = {site: array.copy() for site, array in arrays.items()}
        places.update(array.ctypes.data for array in arrays.values())
        time.sleep(0.1)  # long enough for the next units to be computed
        assert all(np.array_equal(array, before[site]) for site, array in arrays.items())
        return write_unit(writer, unit, arrays)

    monkeypatch.setattr(StoreWriter, "write_unit", slow)
    tiny_harvest(tmp_path / "store")
    assert len(places) == 2 * len(SITES)
    assert verify(tmp_path / "store", full=True) == []


def test_a_round_without_a_unit_leaves_what_is_being_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([{0: 6, 1: 6}, {2: 6}, {3: 6, 4: 6}, None])  # what two in step take together
    written = {}

    def slow(writer: StoreWriter, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        time.sleep(0.2)  # long enough for the next rounds to be computed
        written[unit] = {site: array.copy() for site, array in arrays.items()}
        return True

    monkeypatch.setattr(Harvester, "_take", lambda _: next(rounds))
    monkeypatch.setattr(Processes, "go_together", False)  # these are alone
    monkeypatch.setattr(StoreWriter, "write_unit", slow)
    writer, model = with_tokens(tiny_writer(tmp_path / "store")), tiny_model("llama")
    capture = Capture(model, [resolve(model, name) for name in SITES])
    second = Processes(1, 2, torch.device("cpu"), in_step=True)
    Harvester(writer, capture, 4, second, None).run()
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


class Killed(Exception):
    """The text is cut off here, as by a killed process."""


def test_a_harvest_killed_at_nine_tenths_of_the_text_begins_there_again(
    path: Path, tmp_path: Path
) -> None:
    made: list[int] = []

    def text(first: int, begin: Any, last: int = 99) -> Text:
        source = tokens(first, begin)

        def units() -> Iterator[UnitTokens]:
            for unit, found in enumerate(source.units, first):
                if unit > last:
                    raise Killed
                made.append(unit)
                yield found

        return Text(units(), source.fingerprint)

    with pytest.raises(Killed):
        tiny_harvest(tmp_path / "store", text=partial(text, last=6))
    assert made == [0, 1, 2, 3, 4, 5, 6]
    made.clear()
    tiny_harvest(tmp_path / "store", text=text)
    assert made == [5, 6, 7]  # the newest that was written is made again
    assert contents(tmp_path / "store") == contents(path)


def test_the_language_model_begins_with_the_first_unit(tmp_path: Path) -> None:
    has_passed = threading.Event()

    def text(first: int, begin: Any) -> Text:
        source = tokens(first, begin)

        def units() -> Iterator[UnitTokens]:
            for unit, found in enumerate(source.units):
                if unit == 2:  # a unit is written when the next is there
                    assert has_passed.wait(60)
                yield found

        return Text(units(), source.fingerprint)

    tiny_harvest(tmp_path / "store", text=text, seen=lambda ids_NS: has_passed.set())
    assert verify(tmp_path / "store", full=True) == []


def test_what_ends_the_text_ends_the_harvest(tmp_path: Path) -> None:
    def text(first: int, begin: Any) -> Text:
        raise UserError("found no text")

    with pytest.raises(UserError, match="found no text"):
        tiny_harvest(tmp_path / "store", text=text)


def test_units_of_a_job_are_dealt_once_and_those_of_the_dead_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_dist.harvest.units._MIN_PATIENCE", 0.2)
    writer, store = with_tokens(tiny_writer(tmp_path / "store")), dist.HashStore()
    ranks = [Units(writer, store) for _ in range(3)]
    dealt = [ranks[n % 3].take() for n in range(9)]
    assert sorted(dealt[:8]) == list(range(8)) and dealt[8] is None
    assert ranks[0].take() is None
    time.sleep(0.5)  # and no commit comes
    assert ranks[0].take() is None and ranks[0].take() in range(8)
    assert not ranks[0].all_done


def test_jobs_know_each_others_units_by_their_commits(tmp_path: Path) -> None:
    writer = with_tokens(tiny_writer(tmp_path / "store"))
    one, other = Units(writer, dist.HashStore()), Units(writer, dist.HashStore())
    ours: list[int] = []
    while (unit := one.take()) is not None:
        ours.append(unit)
        (tmp_path / "store" / commit_file(unit)).touch()
    assert sorted(ours) == list(range(8))
    assert other.take() is None and other.all_done


def test_a_job_whose_unit_another_committed_first_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = with_tokens(tiny_writer(tmp_path / "store"))
    units = Units(writer, dist.HashStore())
    monkeypatch.setattr(units, "_rng", SimpleNamespace(choice=min))
    assert [units.take(), units.take()] == [0, 1]
    (tmp_path / "store" / commit_file(0)).touch()
    units.lost()
    monkeypatch.setattr(units, "_rng", SimpleNamespace(choice=max))
    assert units.take() == 7
