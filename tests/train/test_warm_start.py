"""Training that goes on from a finished coder: of ours or another library's, whole or in slices."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_dist.coders import Coder, Form, load_coder, save_coder
from sae_dist.coders.losses import moments, square_sum, total_variance
from sae_dist.common.errors import UserError
from sae_dist.interop import format_named
from sae_dist.parallel import World
from sae_dist.store import open_store
from sae_dist.stream import BatchPart, StoredActivations, StreamConfig
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, make_store, rung, training_run

CASES = [
    ("jumprelu", Form.autoencoder),
    ("topk", Form.autoencoder),
    ("topk", Form.skip_transcoder),
    ("batchtopk", Form.autoencoder),
]
FOREIGN = {
    ("jumprelu", Form.autoencoder): "gemma_scope",
    ("topk", Form.autoencoder): "sparsify",
    ("batchtopk", Form.autoencoder): "dictionary_learning",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a run of one coder of each case."""
    home = tmp_path_factory.mktemp("home")
    make_store(home / "store")
    rungs = [rung(*case) for case in CASES]
    training_run(alone(), home / "store", home / "first", rungs, steps=30).run()
    return home


def begun(
    world: World, store: Path, folder: Path, case: tuple[str, Form], where: Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A run of one step from another coder: the first weights held here, and what was logged."""
    config = rung(*case, latent=world.size)
    config.init_from = str(where)
    run = training_run(world, store, folder, [config], steps=1)
    state = {name: t.numpy().copy() for name, t in run.rungs[0].coder.state_dict().items()}
    run.run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state, next(line for line in lines if "fvu" in line)


def first_batch(home: Path, coder: Coder, target: str) -> tuple[float, float]:
    """FVU and L0 of a finished coder on the first training batch, on raw activations."""
    source = StoredActivations(open_store(home / "store"))
    stream = StreamConfig(bucket_tokens=2048)
    with source.batches(["in", "out"], BatchPart(BATCH, 0, stream)) as batches:
        acts = next(iter(batches))[0].acts
    x_BD, y_BE = acts["in"], acts[target]
    fired_BF = coder.encode(x_BD)
    error = square_sum(y_BE - coder.reconstruct(fired_BF, x_BD))
    return float(error / total_variance(moments(y_BE), BATCH)), float((fired_BF > 0).sum() / BATCH)


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_is_the_finished_coders(
    home: Path, case: tuple[str, Form], tmp_path: Path
) -> None:
    where = home / "first" / "coders" / f"{case[0]}-{case[1]}"
    finished = load_coder(where)
    if case[0] == "batchtopk":
        finished.train()  # over the batch, as a step selects
    state, measured = begun(alone(), home / "store", tmp_path / "r", case, where)
    target = "in" if case[1] is Form.autoencoder else "out"
    fvu, l0 = first_batch(home, finished, target)
    assert measured["step"] == 0
    assert measured["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert measured["l0"] == pytest.approx(l0, abs=1e-9)
    fresh = training_run(alone(), home / "store", tmp_path / "f", [rung(*case)], steps=1)
    assert not np.allclose(fresh.rungs[0].coder.W_enc.detach().numpy(), state["W_enc"])


@pytest.mark.parametrize("case", CASES)
def test_in_slices_it_begins_with_slices_of_the_same(
    home: Path, case: tuple[str, Form], tmp_path: Path
) -> None:
    where, store = home / "first" / "coders" / f"{case[0]}-{case[1]}", home / "store"
    whole, measured = begun(alone(), store, tmp_path / "whole", case, where)
    results = run_on(2, begun, store, tmp_path / "slices", case, where)
    for name, array in whole.items():
        parts = [state[name] for state, _ in results]
        found = parts[1] if parts[1].shape == array.shape else np.concatenate(parts)
        np.testing.assert_array_equal(found, array)
    assert results[0][1]["fvu"] == pytest.approx(measured["fvu"], rel=1e-9)
    assert results[0][1]["l0"] == measured["l0"]


@pytest.mark.parametrize("case", FOREIGN)
def test_it_goes_on_from_another_librarys_files(
    home: Path, case: tuple[str, Form], tmp_path: Path
) -> None:
    where, store = home / "first" / "coders" / f"{case[0]}-{case[1]}", home / "store"
    about = {"site": "in.0", "target": "in.0"}
    format_named(FOREIGN[case]).write(tmp_path / "foreign", load_coder(where), about)
    ours, measured = begun(alone(), store, tmp_path / "ours", case, where)
    theirs, again = begun(alone(), store, tmp_path / "theirs", case, tmp_path / "foreign")
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], array, rtol=1e-5, atol=1e-6)
    assert again["fvu"] == pytest.approx(measured["fvu"], rel=1e-5)


def test_a_run_that_was_begun_so_goes_on_only_so(home: Path) -> None:
    where = home / "first" / "coders" / "topk-autoencoder"
    config = rung("topk")
    config.init_from = str(where)
    folder = home / "goes-on"
    training_run(alone(), home / "store", folder, [config], steps=20).run()
    config.init_from = None
    with pytest.raises(UserError, match="init_from was .*, is None"):
        training_run(alone(), home / "store", folder, [config], steps=20)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "batchtopk"}, "coder.kind=topk, not batchtopk"),
        ({"form": Form.transcoder}, "coder.form=autoencoder, not transcoder; output width=16, not"),
        ({"num_latents": 64}, "coder.num_latents=32, not 64"),
    ],
)
def test_another_coder_is_refused(home: Path, change: dict, told: str) -> None:
    config = rung(change.get("kind", "topk"), change.get("form", Form.autoencoder))
    config.coder.num_latents = change.get("num_latents", 32)
    config.init_from = str(home / "first" / "coders" / "topk-autoencoder")
    with pytest.raises(UserError, match=f"has {told}.*; expected a coder like"):
        training_run(alone(), home / "store", home / "refused", [config], steps=1)


def test_a_decoder_without_unit_norm_is_refused_where_training_would_give_it_one(
    home: Path, tmp_path: Path
) -> None:
    where = home / "first" / "coders" / "topk-autoencoder"
    coder = load_coder(where)
    coder.W_dec *= 2
    save_coder(tmp_path / "c", coder, coder.state_dict(), {"site": "in", "target": "in"})
    config = rung("topk")
    config.init_from = str(tmp_path / "c")
    with pytest.raises(UserError, match="decoder norms from 2 to 2; expected 1: set coder.unit_n"):
        training_run(alone(), home / "store", home / "refused", [config], steps=1)
    config.coder.unit_norm_decoder = False
    training_run(alone(), home / "store", home / "not-refused", [config], steps=1)
