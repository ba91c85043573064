"""The commands as functions, in this process."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sae_dist.apps import evaluate, export, import_coder, report, train, verify
from sae_dist.coders import Coder
from sae_dist.evaluate import read_evaluation
from sae_dist.interop import format_named, format_names
from tests.coders.kinds import config_of_kind
from tests.harvest.tiny import contents, tiny_harvest, tokenizer
from tests.lm.tiny import tiny_model
from tests.train.ladders import D, make_store

SETTINGS = ("coder=topk", "coder.num_latents=32", "coder.k=4", "tokens=640", "batch_tokens=64")
STREAM = ("stream.bucket_tokens=640", "log.wandb=disabled")
Command = Callable[..., None]


def evaluation(run: Path) -> dict[str, Any]:
    """What was measured of a run."""
    found = read_evaluation(run)
    assert found is not None
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command's `main` in an empty folder, and alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(main: Callable[[], None], *arguments: str) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        main()

    return run


def test_a_run_that_changed_is_refused_and_left_as_it_is(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    given = ("store=store", "run=r", "site=in", *SETTINGS, *STREAM)
    run(train.main, *given)
    before = contents(tmp_path)
    capsys.readouterr()
    for change, said in (("seed=1", "seed was 0, is 1"), ("coder.aux_k=7", "aux_k was 512, is 7")):
        with pytest.raises(SystemExit, match="2"):
            run(train.main, *given, change)
        assert said in capsys.readouterr().err
        assert contents(tmp_path) == before
    run(train.main, *given)
    assert "going on from runs/r/checkpoints/step-10" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "setting", ["log.every_steps=0", "log.histogram_every_steps=0", "batch_tokens=0", "tokens=8"]
)
def test_steps_and_batches_of_nothing_are_refused(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture, setting: str
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    with pytest.raises(SystemExit, match="2"):
        run(train.main, "store=store", "run=r", "site=in", *SETTINGS, *STREAM, setting)
    assert re.search(rf"error: .*{setting}.*; expected at least", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_a_store_without_a_language_model_is_evaluated_without_one(
    run: Command, tmp_path: Path
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    run(train.main, "store=store", "run=r", "site=in", *SETTINGS, *STREAM)
    run(evaluate.main, "run=r")
    run(report.main, "run=r")
    results = evaluation(tmp_path / "runs/r")
    assert results["clean_loss"] is None
    assert (tmp_path / "runs/r/report/index.html").is_file()


def test_the_language_model_must_be_the_one_that_was_harvested(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, family in (("one", "llama"), ("other", "mistral")):
        tiny_model(family).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    harvested_from(tmp_path / "one", tmp_path / "store")
    given = ("store=store", "run=r", "site=resid_post.1", "tokens=64", *SETTINGS[:3], *STREAM)
    with pytest.raises(SystemExit, match="2"):
        run(train.main, *given, "batch_tokens=8", "evaluate_lm_sequences=2")
    assert "found evaluate_lm_sequences=2 without log.evaluate_every" in capsys.readouterr().err
    beside = ("log.evaluate_every_steps=4", "evaluate_lm_sequences=2")
    run(train.main, *given, "batch_tokens=8", *beside)
    logged = (tmp_path / "runs/r/metrics.jsonl").read_text()
    assert logged.count('"validation/fvu"') == logged.count('"validation/delta_loss"') == 2
    (tmp_path / "one").rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match="2"):
        run(evaluate.main, "run=r", "lm_name=./other")
    assert "the store was harvested at" in capsys.readouterr().err
    run(evaluate.main, "run=r", "lm_name=./moved")
    (figures,) = evaluation(tmp_path / "runs/r")["rungs"].values()
    assert figures["delta_loss"] != 0


def harvested_from(lm: Path, store: Path) -> None:
    """A tiny store that says it comes from the language model in a folder."""
    from sae_dist.lm import LMConfig, load_lm

    config = {"name": str(lm), "commit": load_lm(LMConfig(name=str(lm))).revision}
    tiny_harvest(store, about={"lm": config})


def test_verify_tells_every_fault(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = make_store(tmp_path / "store", num_tokens=2048)
    run(verify.main, "store=store")
    assert "store is whole" in capsys.readouterr().err
    for shard in sorted((store / "rows" / "activations" / "in").glob("c.*"))[:2]:
        data = bytearray(shard.read_bytes())
        data[9] ^= 1
        shard.write_bytes(data)
    run(verify.main, "store=store", "full=false")
    with pytest.raises(SystemExit, match="2"):
        run(verify.main, "store=store")
    said = capsys.readouterr().err
    assert "c.0.0 with chunk 0 of" in said and "error: faults found in store: 2" in said


def test_coders_go_out_come_back_are_measured_and_trained_on(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    run(train.main, "store=store", "run=r", "site=in", *SETTINGS, *STREAM)
    run(evaluate.main, "run=r")
    rung = "topk-32-k4-in"
    for to in ("saelens", "sparsify", "dictionary_learning", "sae_dist"):
        run(export.main, "run=r", f"to={to}")
        assert (tmp_path / "runs/r/exports" / to / rung).is_dir()
        card = (tmp_path / "runs/r/exports" / to / "README.md").read_text()
        assert f"| `{rung}` | topk | autoencoder | in | in | 32 | 4.000 |" in card
        assert "activations that did not come from a language model" in card
    theirs = f"runs/r/exports/sparsify/{rung}"
    run(import_coder.main, f"path={theirs}", f"to=runs/theirs/coders/{rung}", "site=in")
    run(evaluate.main, "run=theirs", "store=store")
    figures = [evaluation(tmp_path / "runs" / name)["rungs"][rung] for name in ("r", "theirs")]
    assert figures[1]["fvu"] == pytest.approx(figures[0]["fvu"], rel=1e-5)
    assert figures[1]["l0"] == figures[0]["l0"]
    finetune = ("store=store", "run=f", "site=in", f"init_from={theirs}", *SETTINGS, *STREAM)
    run(train.main, *finetune)
    assert "init_from: runs/r/exports" in (tmp_path / "runs/f/config.yaml").read_text()
    capsys.readouterr()
    for arguments, told in (
        (("to=gemma_scope",), f"{rung}: Gemma Scope.*; export it with to=saelens, or name"),
        (("to=saelens", "rungs=[a]"), f"rungs=a; expected rungs of .*: {rung}"),
        (("to=lens",), "saelens"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(export.main, "run=r", *arguments)
        assert re.search(f"^error: .*{told}", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        run(import_coder.main, f"path={theirs}", "to=runs/r", "site=in")
    assert "to=runs/r exists; expected a new folder" in capsys.readouterr().err


def publish(to: str, num_latents: int, folder: Path) -> None:
    """A coder as another library publishes it: random weights, few latents active."""
    kind = "topk" if to == "sparsify" else "jumprelu"
    coder = Coder(config_of_kind(kind, num_latents=num_latents, k=4), D, D, pre_bias=False)
    generator = torch.Generator().manual_seed(num_latents)
    for name, tensor in coder.state_dict().items():
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        if "threshold" in name:
            tensor.fill_(0.2)
    format_named(to).write(folder, coder.eval(), {"site": "in", "target": "in"})


@pytest.mark.parametrize("to", [name for name in format_names() if name != "sae_dist"])
def test_published_coders_of_every_format_are_measured_and_stitched(
    to: str, run: Command, tmp_path: Path
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    for width in (16, 32):
        publish(to, width, tmp_path / f"{to}-{width}")
        place = f"to=runs/theirs/coders/{to}-{width}"
        run(import_coder.main, f"path={to}-{width}", place, "site=in")
    run(evaluate.main, "run=theirs", "store=store")
    found = evaluation(tmp_path / "runs/theirs")
    assert sorted(found["rungs"]) == [f"{to}-16", f"{to}-32"]
    assert all(0 < figures["l0"] < 32 for figures in found["rungs"].values())
    (pair,) = found["pairs"]
    assert (pair["smaller"], pair["larger"]) == (f"{to}-16", f"{to}-32")
    assert pair["stitching"]
