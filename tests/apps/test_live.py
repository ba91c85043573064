"""`store=live`: trained and evaluated by the commands without a store."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from sae_dist.apps import cli, evaluate, harvest, pinned, train
from sae_dist.apps.rungs import lay_out
from sae_dist.apps.sources import open_source
from sae_dist.coders import load_coder
from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.store import open_store
from tests.apps.test_commands import Command, evaluation, run  # noqa: F401 - a fixture
from tests.harvest.tiny import tokenizer
from tests.live.tiny import write_text
from tests.lm.tiny import tiny_model
from tests.processes import run_on
from tests.train.test_training import losses

HARVEST = (
    *("lm.name=./lm", "text.path=./text", "text.sequence_length=8", "tokens=2K"),
    *("harvest.batch_sequences=4", "writer.held_out=0.2", "writer.dtype=float32"),
    "sites=[resid_post.1]",
)
LIVE = ("store=live", "stream.lanes=4", *(f"harvest.{setting}" for setting in HARVEST))
SETTINGS = (
    *("coder=topk", "coder.num_latents=64", "coder.k=4", "coder.aux_k=8", "optim.lr=0.01"),
    *("optim.warmup_steps=10", "coder.dead_after_tokens=2000", "log.every_steps=1"),
    *("batch_tokens=80", "stream.bucket_tokens=512", "log.wandb=disabled"),
    *("precision=float64", "checkpoint.every_steps=10"),
)
NAME = "topk-64-k4-resid_post.1"


def write_lm(folder: Path, family: str = "llama") -> None:
    tiny_model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_lm(tmp_path / "lm")
    write_text(tmp_path / "text", copies=2)
    return tmp_path


def coder(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_coder(run_folder / "coders" / NAME).state_dict()


def figures(run_folder: Path) -> dict:
    return evaluation(run_folder)["rungs"][NAME]


def fvu_of_all(path: Path, run_folder: Path) -> float:
    """On all training rows of a store: what is held out is not the same."""
    store = open_store(path)
    chunks = range(len(store.chunk_rows))
    x_ND = torch.cat([torch.from_numpy(store.read_rows("resid_post.1", n)) for n in chunks])
    error_ND = x_ND - load_coder(run_folder / "coders" / NAME)(x_ND)
    return float(error_ND.square().sum() / (x_ND - x_ND.mean(0)).square().sum())


def test_a_coder_is_as_good_as_from_a_store(run: Command, home: Path) -> None:  # noqa: F811
    calm = ("tokens=16K", "optim.decay_share=0.8")  # or the last few batches decide
    run(train.main, *LIVE, "run=live", *SETTINGS, *calm)
    run(harvest.main, *HARVEST, "store=store", "writer.chunk_mib=0.003", "writer.shard_mib=0.01")
    run(train.main, "store=store", "run=stored", *SETTINGS, *calm)
    run(evaluate.main, "run=live")
    live, stored = (fvu_of_all(home / "store", home / "runs" / run) for run in ("live", "stored"))
    assert stored <= live < 1.4 * stored and live < 0.2  # which holds out other tokens than these
    evaluated = figures(home / "runs/live")
    assert evaluated["fvu"] < 0.4 and "delta_loss" in evaluated
    results = evaluation(home / "runs/live")
    assert results["store"]["path"] == "live" and results["lm"]["name"] == "./lm"
    assert not [path for path in home.rglob("MANIFEST.json") if home / "store" not in path.parents]


def test_a_run_goes_on_bitwise_but_not_on_another_text(
    run: Command,  # noqa: F811
    home: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def means(commit: str) -> None:
        """From now on, on the Hub."""
        pin = lambda text: replace(text, commit=text.commit or commit)  # noqa: E731
        monkeypatch.setattr(pinned, "pin", pin)

    means("first")
    run(train.main, *LIVE, "run=whole", *SETTINGS, "tokens=4K")
    run(train.main, *LIVE, "run=stopped", *SETTINGS, "tokens=2K")
    capsys.readouterr()
    means("moved")
    run(train.main, *LIVE, "run=stopped", *SETTINGS, "tokens=4K")
    said = capsys.readouterr().err
    written = yaml.safe_load((home / "runs/stopped/config.yaml").read_text())
    assert written["harvest"]["text"]["commit"] == "first"
    assert "were only tokenised again" in said and "pass the language model again" in said
    assert losses(home / "runs/whole") == losses(home / "runs/stopped")
    whole, stopped = coder(home / "runs/whole"), coder(home / "runs/stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    with pytest.raises(SystemExit, match="2"):
        run(train.main, *LIVE, "run=stopped", *SETTINGS, "tokens=6K", "harvest.tokens=1K")
    assert "source was live sha256:" in capsys.readouterr().err


def trained(world: World, home: Path, folder: Path, tokens: int) -> None:
    """The command's run, on a world that is there already."""
    typed = [
        setting.replace("=./", f"={home}/")
        for setting in (*LIVE, "run=r", *SETTINGS, f"tokens={tokens}")
    ]
    config = cli.compose("train", typed)
    source = open_source(config, world.device)
    folder.mkdir(exist_ok=True)
    rungs = lay_out(config, source.widths)
    train.TrainingRun(config, rungs, source, world, folder).run()


def test_two_processes_train_as_one_does(home: Path) -> None:
    for world in (1, 2):
        run_on(world, trained, home, home / f"on {world}", 2400)
    one, two = (losses(home / f"on {world}")[NAME] for world in (1, 2))
    assert len(one) == 30 and two == pytest.approx(one, rel=1e-9)


def test_what_is_asked_for_is_composed_as_the_harvest_composes_it(
    run: Command,  # noqa: F811
    home: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    asked = ["+experiment=quickstart_scratch", "run=r"]
    harvest = cli.compose("train", [*asked, "store=live", "harvest.tokens=2M"]).harvest
    assert harvest.sites == ["resid_post.2", "mlp_in.2", "mlp_out.2"]
    assert (harvest.store, harvest.tokens) == ("live", 2_000_000)
    assert cli.compose("train", asked).harvest is None
    with pytest.raises(UserError, match="found harvest.… beside source=stored; expected source="):
        cli.compose("train", [*asked, "harvest.tokens=2M"])
    refused = {
        "harvest.lm.nam=x": "lm.name",
        "harvest.sites=[]": "expected one or more different ones",
        "harvest.lm.tensor=2": "harvest.lm.tensor=2; expected 1 with store=live",
        "harvest.tokens=8": "harvest.tokens=8; expected at least 32",
    }
    for wrong, said in refused.items():
        with pytest.raises(SystemExit, match="2"):
            run(train.main, *LIVE, "run=r", *SETTINGS, "tokens=2K", wrong)
        lines = capsys.readouterr().err.splitlines()
        assert said in lines[-1] and lines[-1].startswith("error: ")
    assert not (home / "runs").exists()


def test_what_the_language_model_loses_is_logged_while_it_is_read(
    run: Command,  # noqa: F811
    home: Path,
) -> None:
    run(train.main, *LIVE, "run=blind", *SETTINGS, "tokens=2K")
    beside = ("log.evaluate_every_steps=5", "evaluate_lm_sequences=8")
    run(train.main, *LIVE, "run=r", *SETTINGS, "tokens=2K", *beside)
    run(evaluate.main, "run=r", "lm_sequences=8")
    lines = map(json.loads, (home / "runs/r/metrics.jsonl").read_text().splitlines())
    logged = [line for line in lines if "validation/fvu" in line]
    assert [line["step"] for line in logged] == [4, 9, 14, 19, 24]
    for key in ("delta_loss", "loss_recovered"):
        expected = pytest.approx(figures(home / "runs/r")[key], rel=1e-3, abs=1e-6)
        assert logged[-1][f"validation/{key}"] == expected
    blind, watched = coder(home / "runs/blind"), coder(home / "runs/r")
    assert all(torch.equal(blind[name], watched[name]) for name in blind)


def test_evaluation_wants_the_language_model_it_was_trained_on(
    run: Command,  # noqa: F811
    home: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    run(train.main, *LIVE, "run=r", *SETTINGS, "tokens=800")
    assert yaml.safe_load((home / "runs/r/config.yaml").read_text())["harvest"]["tokens"] == 2000
    (home / "lm").rename(home / "moved")
    write_lm(home / "other", "mistral")
    with pytest.raises(SystemExit, match="2"):
        run(evaluate.main, "run=r", "lm_name=./other")
    assert "harvested at" in capsys.readouterr().err
    run(evaluate.main, "run=r", "lm_name=./moved", "lm_sequences=0")
    assert "delta_loss" not in figures(home / "runs/r")
