"""Training that goes on from a finished coder: of ours or another library's, whole or in slices."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_dist.coders import Coder, Form, Kind, load_coder, save_coder
from sae_dist.coders.losses import moments, spread, square_sum
from sae_dist.common.errors import UserError
from sae_dist.interop import FORMATS, FormatName
from sae_dist.parallel import World
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, make_store, rung, training_run

CASES = [
    (Kind.jumprelu, Form.autoencoder),
    (Kind.topk, Form.autoencoder),
    (Kind.topk, Form.skip_transcoder),
    (Kind.batchtopk, Form.autoencoder),
]
FOREIGN = {
    (Kind.jumprelu, Form.autoencoder): FormatName.gemma_scope,
    (Kind.topk, Form.autoencoder): FormatName.sparsify,
    (Kind.batchtopk, Form.autoencoder): FormatName.dictionary_learning,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a run of one coder of each case."""
    home = tmp_path_factory.mktemp("home")
    make_store(home / "store")
    rungs = [rung(*case) for case in CASES]
    training_run(alone(), home / "store", home / "first", rungs, steps=30).run()
    return home


def begun(world: World, home: str, case: tuple[Kind, Form], where: str, latent: int) -> Any:
    """A run's first step from another coder: all latents' weights, FVU and L0 of step 0."""
    config = rung(*case, latent=latent)
    config.init_from = where
    folder = Path(home) / f"again-{case[0]}-{case[1]}-{world.size}-{Path(where).name}"
    run = training_run(world, Path(home) / "store", folder, [config], steps=1)
    state = {name: tensor.clone() for name, tensor in run.rungs[0].coder.state_dict().items()}
    scale = run.rungs[0].scale
    run.run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state, scale, next(line for line in lines if "fvu" in line)


def first_batch(home: Path, coder: Coder, target: str) -> tuple[float, float]:
    """FVU and L0 of a finished coder on the first training batch, on raw activations."""
    from sae_dist.store import open_store
    from sae_dist.stream import StoredActivations, StreamConfig

    source = StoredActivations(open_store(home / "store"))
    stream = StreamConfig(lanes=8, bucket_tokens=2048)
    with source.batches(["in", "out"], BATCH, 0, stream, 0, 1, 0) as batches:
        acts = next(iter(batches))[0].acts
    x_BD, y_BE = acts["in"], acts[target]
    fired_BF = coder.encode(x_BD)
    error = square_sum(y_BE - coder.reconstruct(fired_BF, x_BD))
    return float(error / spread(moments(y_BE), BATCH)), float((fired_BF > 0).sum() / BATCH)


@pytest.mark.parametrize("case", CASES)
def test_the_first_step_is_the_finished_coders(home: Path, case: tuple[Kind, Form]) -> None:
    where = home / "first" / "coders" / f"{case[0]}-{case[1]}"
    finished = load_coder(where)
    if case[0] is Kind.batchtopk:
        finished.train()  # over the batch, as a step selects
    _, _, measured = begun(alone(), str(home), case, str(where), latent=1)
    target = "in" if case[1] is Form.autoencoder else "out"
    fvu, l0 = first_batch(home, finished, target)
    assert measured["step"] == 0
    assert measured["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert measured["l0"] == pytest.approx(l0, abs=1e-9)
    anew = rung(*case)
    fresh = training_run(alone(), home / "store", home / f"anew-{case}", [anew], steps=1)
    assert not torch.equal(fresh.rungs[0].coder.W_dec, finished.W_dec.double())


@pytest.mark.parametrize("case", CASES)
def test_in_slices_it_begins_with_slices_of_the_same(home: Path, case: tuple[Kind, Form]) -> None:
    where = str(home / "first" / "coders" / f"{case[0]}-{case[1]}")
    whole, _, measured = begun(alone(), str(home), case, where, latent=1)
    results = run_on(2, begun, str(home), case, where, 2)
    for name, tensor in whole.items():
        parts = [state[name] for state, _, _ in results]
        is_slice = name in ("W_enc", "b_enc", "W_dec", "threshold")
        torch.testing.assert_close(torch.cat(parts) if is_slice else parts[1], tensor)
    assert results[0][2]["fvu"] == pytest.approx(measured["fvu"], rel=1e-9)
    assert results[0][2]["l0"] == measured["l0"]


@pytest.mark.parametrize("case", FOREIGN)
def test_it_goes_on_from_another_librarys_files(
    home: Path, case: tuple[Kind, Form], tmp_path: Path
) -> None:
    where = home / "first" / "coders" / f"{case[0]}-{case[1]}"
    about = {"site": "in.0", "target": "in.0"}
    FORMATS[FOREIGN[case]].write(tmp_path / "foreign", load_coder(where), about)
    case_of_file = (Kind.jumprelu if FOREIGN[case] is FormatName.gemma_scope else case[0], case[1])
    ours, _, measured = begun(alone(), str(home), case, str(where), latent=1)
    theirs, _, again = begun(alone(), str(home), case_of_file, str(tmp_path / "foreign"), latent=1)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-5, atol=1e-6)
    assert again["fvu"] == pytest.approx(measured["fvu"], rel=1e-5)


def test_a_run_that_was_begun_so_goes_on_only_so(home: Path) -> None:
    where = home / "first" / "coders" / "topk-autoencoder"
    config = rung(Kind.topk)
    config.init_from = str(where)
    folder = home / "goes-on"
    training_run(alone(), home / "store", folder, [config], steps=20).run()
    config.init_from = None
    with pytest.raises(UserError, match="init_from was .*, is None"):
        training_run(alone(), home / "store", folder, [config], steps=20)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": Kind.batchtopk}, "coder.kind=topk, not batchtopk"),
        ({"form": Form.transcoder}, "coder.form=autoencoder, not transcoder; output width=16, not"),
        ({"num_latents": 64}, "coder.num_latents=32, not 64"),
    ],
)
def test_another_coder_is_refused(home: Path, change: dict, told: str) -> None:
    settings = {"kind": Kind.topk, "form": Form.autoencoder} | change
    config = rung(settings.pop("kind"), settings.pop("form"), **settings)
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
    config = rung(Kind.topk)
    config.init_from = str(tmp_path / "c")
    with pytest.raises(UserError, match="decoder norms from 2 to 2; expected 1: set coder.unit_n"):
        training_run(alone(), home / "store", home / "refused", [config], steps=1)
    config.coder.unit_norm_decoder = False
    training_run(alone(), home / "store", home / "not-refused", [config], steps=1)
