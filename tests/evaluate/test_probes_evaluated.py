"""Labelled texts through a language model, its coders and the whole evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_dist.coders import Coder, Form, TopK, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import EvaluationConfig, evaluate, finished
from sae_dist.evaluate.config import BUILT_IN, ProbesConfig
from sae_dist.evaluate.passes import Passes
from sae_dist.lm import LM, LMConfig
from sae_dist.parallel import SharingConfig, World, make_mesh
from sae_dist.store import open_store, write_store
from sae_dist.stream import StoredActivations
from tests.evaluate import letters
from tests.evaluate.test_evaluator import flat, undocumented
from tests.processes import alone, run_on

TEXTS = "bios.jsonl:profession,gender"
FEW: dict[str, Any] = {"train_texts": 120, "test_texts": 40, "latents": [1, 5], "ablated": [2, 10]}
SITES = (letters.SITE, "mlp_in.1", "mlp_out.1")


def small_lm() -> LM:
    return LM(letters.model(), letters.tokenizer(), LMConfig(name="letters"), "none")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder and a transcoder, beside their store and some texts."""
    folder = tmp_path_factory.mktemp("probes") / "run"
    coder, width = letters.coder(), letters.WIDTH
    about = {"site": letters.SITE, "target": letters.SITE}
    save_coder(folder / "coders" / "sae", coder, coder.state_dict(), about)
    config = TopK(num_latents=coder.config.num_latents, k=6, form=Form.skip_transcoder)
    other = Coder(config, width, width)
    generator = torch.Generator().manual_seed(0)
    weights = {k: torch.randn(v.shape, generator=generator) for k, v in other.state_dict().items()}
    about = {"site": "mlp_in.1", "target": "mlp_out.1"}
    save_coder(folder / "coders" / "transcoder", other, weights, about)
    acts = torch.randn(300, width, generator=generator)
    lm = {"lm": {"name": "letters", "commit": "none"}}
    write_store(folder.parent / "store", dict.fromkeys(SITES, acts), provenance=lm)
    letters.write_texts(folder.parent / "bios.jsonl", classes=2, num_each=50)
    return folder


def evaluated(world: World, run: Path, measures: list[str], latent: int = 1) -> dict[str, Any]:
    """The results; of the letters absorption alone, as their many probes take long."""
    data = "first_letter" if measures == ["absorption"] else f"{run.parent}/{TEXTS}"
    config = EvaluationConfig(
        measures=measures,
        probes=ProbesConfig(data=[data], **FEW),
        parallel=SharingConfig(latent=latent),
        batch_tokens=1000,
    )
    source = StoredActivations(open_store(run.parent / "store"))
    (results,) = evaluate(finished(run, world.device), source, small_lm, config, world)
    return results


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    evaluated(alone(), run, ["absorption"])
    return evaluated(alone(), run, ["sparse_probing", "scr_tpp"])


def test_figures_are_told_and_documented(results: dict[str, Any]) -> None:
    assert undocumented(results, {"sae", "transcoder"}) == set()
    sae, transcoder = (results["rungs"][name] for name in ("sae", "transcoder"))
    assert sae["sparse_probing"]["k"] == [1, 5]
    (probed,) = sae["sparse_probing"]["data"]
    assert (probed["name"], probed["classes"]) == ("bios", 2)
    assert probed["train"] > 100 and 0.5 < probed["latents"]["top_5"] <= 1
    assert probed["activations"] != transcoder["sparse_probing"]["data"][0]["activations"]
    absorption = sae["absorption"]
    assert absorption["letters"] >= 20 and 0 < absorption["fraction"] < 1
    for row in absorption["by_letter"]:
        assert 0 <= row["full"] <= 1 and 1 <= len(row["main"]) <= 10 and row["f1"] > 0.6
    assert sae["scr"]["pairs"][0]["classes"] == ["nurse", "professor"]
    assert sae["tpp"]["n"] == sae["scr"]["n"] == [2, 10]
    assert {"score", "top_10"} <= transcoder["scr"].keys()


@pytest.mark.slow
@pytest.mark.parametrize(("world", "latent"), [(2, 1), (2, 2)])
def test_every_mesh_gives_the_same_figures(
    run: Path, results: dict[str, Any], world: int, latent: int
) -> None:
    """Up to texts that lie on the border of a probe."""
    expected = flat(results["rungs"])
    for path in (run / "evaluation").glob("*/*.json"):
        path.unlink()
    run_on(world, evaluated, run, ["absorption"], latent)
    for found in run_on(world, evaluated, run, ["sparse_probing", "scr_tpp"], latent):
        assert flat(found["rungs"]).keys() == expected.keys()
        for key, value in flat(found["rungs"]).items():
            close = pytest.approx(expected[key], abs=0.05) if isinstance(value, float) else value
            assert value == close, key


def test_what_has_changed_is_measured_again(
    run: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    measures, path = ["sparse_probing"], run.parent / "bios.jsonl"
    assert evaluated(alone(), run, measures) == results
    assert "again" not in "".join(capsys.readouterr())
    text = path.read_text()
    path.write_text(text[: text.rindex("{")])
    evaluated(alone(), run, measures)
    path.write_text(text)
    assert "sae/sparse_probing again: probes.data changed" in "".join(capsys.readouterr())
    record = json.loads((run / "evaluation" / "sae" / "absorption.json").read_text())
    assert record["of"]["probes.data"][0][0] == "first_letter"
    assert {"probes.seed", "probes.min_f1", "lm", "coder"} <= record["of"].keys()


def test_built_in_texts_are_read_where_a_measure_of_them_is_asked_for(run: Path) -> None:
    source = StoredActivations(open_store(run.parent / "store"))
    mesh = make_mesh(alone(), 1, {})
    for measures, data in ((None, []), (["fidelity"], []), (["absorption"], list(BUILT_IN))):
        passes = Passes(source, small_lm, EvaluationConfig(measures=measures), mesh)
        assert passes.data == data
    config = EvaluationConfig(measures=["scr_tpp"])
    with pytest.raises(UserError, match=r"nothing to take measures=\['scr_tpp'\] of"):
        evaluate(finished(run, torch.device("cpu")), source, None, config, alone())
