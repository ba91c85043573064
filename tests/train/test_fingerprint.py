"""What may change between a checkpoint and the run that goes on from it, and how it is said."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.store import open_store
from sae_dist.stream import StoredActivations
from sae_dist.train import LoopConfig, Resume, check_alike
from sae_dist.train.fingerprint import changes
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, make_store, rung, training_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store", num_tokens=2048)


RUNG = {"name": "a", "site": "in", "target": "in", "coder": {"k": 4}, "optim": {"lr": 1e-3}}
IDENTITY: dict[str, Any] = {
    "seed": 0,
    "stream": {"lanes": 8},
    "mean_square": {"in": 2.0},
    "rungs": [RUNG, {**RUNG, "name": "b", "coder": {"k": 8}}],
}


def test_what_is_equal_has_no_changes() -> None:
    assert changes(IDENTITY, copy.deepcopy(IDENTITY)) == []
    assert changes(IDENTITY, {**IDENTITY, "rungs": IDENTITY["rungs"][::-1]}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"stream": {"lanes": 4}}, "stream.lanes was 8, is 4"),
        ({"mean_square": {"in": 2.5}}, "mean_square.in was 2.0, is 2.5"),
        ({"rungs": [{**RUNG, "coder": {"k": 5}}, IDENTITY["rungs"][1]]}, "a: coder.k was 4, is 5"),
        (  # a rung's name tells its settings, so that both change
            {"rungs": [{**RUNG, "name": "c", "coder": {"k": 5}}, IDENTITY["rungs"][1]]},
            "c: coder.k was 4, is 5",
        ),
        (
            {"rungs": [{**RUNG, "name": "c"}, IDENTITY["rungs"][1]]},
            "rung a is now called c",
        ),
        ({"rungs": [RUNG]}, "rungs were a, b, are a"),
    ],
)
def test_each_change_is_told_once(change: dict, said: str) -> None:
    assert changes(IDENTITY, {**IDENTITY, **change}) == [said]


def start(store: Path, folder: Path, *, steps: int = 2, decay: float = 0.2, **loop: Any) -> None:
    only = rung("topk")
    only.optim.decay_share = decay
    training_run(alone(), store, folder, [only], steps, **loop).run()


def test_more_steps_are_another_run_only_where_the_rate_falls_to_the_end(
    store: Path, tmp_path: Path
) -> None:
    start(store, tmp_path / "falls")
    with pytest.raises(UserError, match=r"steps \(optim.decay_share .*\) was 2, is 3; .*run=NAME"):
        start(store, tmp_path / "falls", steps=3)
    start(store, tmp_path / "stays", decay=0.0)
    start(store, tmp_path / "stays", decay=0.0, steps=3)


def test_fewer_tokens_than_were_done_are_refused_and_as_many_are_done_already(
    store: Path, tmp_path: Path
) -> None:
    start(store, tmp_path, decay=0.0, steps=3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = rf"found tokens={2 * BATCH}, 2 steps, but .* is at step 3; .* tokens={3 * BATCH}, which"
    with pytest.raises(UserError, match=said):
        start(store, tmp_path, decay=0.0, steps=2)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    figures = (tmp_path / "metrics.jsonl").read_bytes()
    start(store, tmp_path, decay=0.0, steps=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == figures


def test_without_a_number_all_tokens_are_trained_on_once(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = StoredActivations(open_store(store))
    rows = sum(len(acts) for acts in trainable_rows(store))
    assert source.num_tokens == rows < 8192
    run = training_run(alone(), store, tmp_path, [rung("topk")], 1, tokens=None)
    assert (run.config.tokens, run.num_steps) == (rows, rows // BATCH)
    assert f"tokens={rows}: all that {store} has for training, once" in capsys.readouterr().err


def trainable_rows(path: Path) -> Iterator[np.ndarray]:
    store = open_store(path)
    yield from (store.read_rows("in", chunk) for chunk in range(len(store.chunk_rows)))


def test_resume_says_what_is_expected(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resume=must, but there is no complete checkpoint in .*"):
        start(store, tmp_path, resume=Resume.must)
    start(store, tmp_path, resume=Resume.never)
    with pytest.raises(UserError, match="resume=never, but .*step-2 is there; choose another run"):
        start(store, tmp_path, resume=Resume.never)
    start(store, tmp_path, resume=Resume.must)


def start_unlike(world: World, store: Path) -> str:
    source = StoredActivations(open_store(store))
    config = LoopConfig(batch_tokens=BATCH * (2 if world.rank == 1 else 1))
    with pytest.raises(UserError) as error:
        check_alike(world, config, source)
    return str(error.value)


def test_a_process_that_was_started_differently_is_named_on_all(store: Path) -> None:
    first, second = run_on(2, start_unlike, store)
    assert first == second
    assert "rank 1 (" in first and "config.batch_tokens 64 and 128" in first
