"""`sae-dist explain`, from a run's folder to its figures."""

import json
from pathlib import Path

import pytest
import yaml

import sae_dist
from sae_dist.common.errors import UserError
from sae_dist.evaluate.results import rung_path
from sae_dist.latents import read_explanations
from tests.explain.made_up import LATENTS, RUNG, tokenizer, word, write_run
from tests.explain.server import serving
from tests.lm.tiny import tiny_model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latents were watched on a language model that is there."""
    home = tmp_path_factory.mktemp("home")
    tiny_model("llama").save_pretrained(home / "lm")
    tokenizer().save_pretrained(home / "lm")
    lm = {"name": str(home / "lm"), "commit": "unsaid"}
    latents = write_run(home / "runs" / "r", lm=lm)
    (latents.run / "config.yaml").write_text(yaml.safe_dump({"store": "s"}))
    return home


def run(home: Path, *overrides: str):
    given = ["run=r", f"runs={home / 'runs'}", f"latents={LATENTS[:2]}", *overrides]
    return sae_dist.explain(sae_dist.compose("explain", given))


def test_an_oracle_explains_scores_and_is_summed_up(
    home: Path, capsys: pytest.CaptureFixture
) -> None:
    found = run(home, "judge=oracle", "scorers=[detection,fuzzing,autointerp]")
    figures = found[RUNG]
    assert figures["interpretability"]["mean"] == 1 and figures["explained"] == 2
    said = capsys.readouterr().err
    assert "oracle will be asked for 168 requests" in said and "detection 1.000 (shuffled" in said
    written = json.loads(rung_path(home / "runs" / "r", RUNG, "explanations").read_bytes())
    assert written["figures"] == figures and written["of"]["judge"] == "oracle"
    assert set(read_explanations(home / "runs" / "r", RUNG)) == set(LATENTS[:2])


def test_an_endpoint_explains_and_judges(home: Path, capsys: pytest.CaptureFixture) -> None:
    with serving() as server:
        asked = ("judge.model=m", f"judge.base_url={server.url}", "replace=true", "shown=10")
        prices = ("judge.price_in=1", "judge.price_out=10", "budget.dollars=1")
        figures = run(home, *asked, *prices, "scorers=[detection]", "control_latents=0")[RUNG]
    assert figures["scores"]["detection"]["mean"] == 0.5  # it says 1 of every passage
    assert figures["judge"] == "openai m" and len(server.requests) == 2 + 2 * 10
    assert "22 requests, 2,200 tokens in and 220 out, $0.00" in capsys.readouterr().err


def test_planted_latents_try_the_judge(home: Path) -> None:
    config = ["run=r", f"runs={home / 'runs'}", "judge=oracle", "planted=true", "num_latents=2"]
    windows = ["examples.min_windows=9", "examples.explain=1", "examples.score=2"]
    windows += ["examples.quantiles=3", "examples.inactive=20"]
    found = sae_dist.explain(sae_dist.compose("explain", [*config, *windows]))
    assert found["planted"]["interpretability"]["mean"] == 1
    (first, _) = there = read_explanations(home / "runs" / "r", "planted")
    assert there[first].text == f"the token {word(first)!r}" and there[first].explainer == "planted"


def test_what_is_not_there_is_said_in_one_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text('{"1": "a"}')
    with pytest.raises(UserError, match="found no text for latent 60 in explanations="):
        run(home, "judge=oracle", f"explanations={tmp_path / 'texts.json'}")
    with pytest.raises(UserError, match="found no latents .*sae-dist latents run=q"):
        sae_dist.explain(sae_dist.compose("explain", ["run=q", "judge=oracle"]))
    with pytest.raises(UserError, match="examples.min_windows=50; expected at least 90"):
        run(home, "judge=oracle", "examples.min_windows=50")
    with pytest.raises(UserError, match="planted=true beside latents"):
        run(home, "judge=oracle", "planted=true")
    with pytest.raises(UserError, match="rungs=q; expected rungs of r: r"):
        run(home, "judge=oracle", "rungs=[q]")


def test_latents_of_no_language_model_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "r")
    with pytest.raises(UserError, match="without a language model; expected"):
        run(tmp_path, "judge=oracle")
