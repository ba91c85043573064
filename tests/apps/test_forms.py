"""Coders of several sites and of several language models, and finetuned ones, by the commands."""

import json
from pathlib import Path

import pytest
import torch

from sae_dist.apps import evaluate, export, finetune, harvest, latents, report, train
from sae_dist.coders import load_coder
from tests.apps.test_commands import Command, evaluation, run  # noqa: F401 - a fixture
from tests.harvest.tiny import tokenizer
from tests.live.tiny import write_text
from tests.lm.tiny import tiny_model

HARVEST = (
    *("text.path=./text", "text.sequence_length=8", "tokens=2K", "harvest.batch_sequences=4"),
    *("writer.held_out=0.2", "writer.dtype=float32", "writer.chunk_mib=0.01"),
    *("writer.shard_mib=0.05", "sites=[resid_post.1,mlp_out.1]"),
)
TRAIN = (
    *("coder.num_latents=64", "coder.k=4", "optim.lr=0.01", "optim.warmup_steps=10"),
    *("batch_tokens=80", "tokens=8K", "stream.bucket_tokens=512", "log.wandb=disabled"),
)


@pytest.fixture
def home(tmp_path: Path, run: Command) -> Path:  # noqa: F811
    """A language model and a finetune of it, and a store of each of the same text."""
    for name, change in (("base", 0.0), ("tuned", 0.05)):
        model = tiny_model("llama")
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter += change * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    write_text(tmp_path / "text", copies=2)
    for name in ("base", "tuned"):
        run(harvest.main, f"lm.name=./{name}", f"store=stores/{name}", *HARVEST)
    return tmp_path


def test_a_model_and_its_finetune_are_compared(
    run: Command,  # noqa: F811
    home: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    both = ("store=stores/base", "aligned={chat: stores/tuned}", "coder=batchtopk_crosscoder")
    run(train.main, *both, "site=resid_post.1+chat:resid_post.1", "run=diff", *TRAIN)
    run(train.main, *both, "site=resid_post.1+mlp_out.1", "run=layers", *TRAIN)
    for name in ("diff", "layers"):
        run(evaluate.main, f"run={name}", "max_sequences=16", "lm_sequences=8")
    ((name, figures),) = evaluation(home / "runs/diff")["rungs"].items()
    assert name == "batchtopk_crosscoder-64-k4-resid_post.1+chat.resid_post.1"
    assert max(figures["site_fvu"]) < 0.9 and sum(figures["delta_norm"]["counts"]) == 64
    assert "delta_loss" not in figures
    ((_, of_layers),) = evaluation(home / "runs/layers")["rungs"].items()
    assert len(of_layers["delta_loss_by_site"]) == 2
    run(report.main, "run=diff")
    page = (home / "runs/diff/report/index.html").read_text()
    for drawn in ("Relative decoder norms", "FVU by site", "Sites of a crosscoder"):
        assert drawn in page
    run(latents.main, "run=diff", "max_sequences=16")
    assert (home / "runs/diff/latents/index.html").is_file()
    assert load_coder(home / "runs/diff/coders" / name).site_norms().shape == (64, 2)
    capsys.readouterr()
    for to, reason in (("saelens", "SAELens has no crosscoders"), ("neuronpedia", "has none")):
        with pytest.raises(SystemExit, match="2"):
            run(export.main, "run=diff", f"to={to}")
        assert reason in capsys.readouterr().err
    other = [word.replace("tokens=2K", "tokens=1K") for word in HARVEST]
    run(harvest.main, "lm.name=./tuned", "store=stores/other", *other)
    with pytest.raises(SystemExit, match="2"):
        unlike = "aligned={chat: stores/other}"
        run(train.main, both[0], unlike, *both[2:], "run=no", *TRAIN)
    assert "expected the same tokens in the same order" in capsys.readouterr().err


def test_a_finetuned_coder_is_a_run_of_its_own(run: Command, home: Path) -> None:  # noqa: F811
    given = ("store=stores/base", "site=resid_post.1", "coder=topk", *TRAIN)
    run(train.main, *given, "run=first")
    asked = ("run=first", "to=first_lm", "tokens=2K", "batch_tokens=64", "lr=0.001")
    run(finetune.main, *asked, "evaluate_lm_sequences=16", "log.wandb=disabled")
    figures = json.loads((home / "runs/first_lm/finetune.json").read_text())
    assert figures.keys() == {"before", "after"}
    assert figures["before"] != figures["after"]
    run(evaluate.main, "run=first_lm", "max_sequences=16", "lm_sequences=16")
    for name, measured in evaluation(home / "runs/first_lm")["rungs"].items():
        after = figures["after"][name]["validation/delta_loss"]
        assert measured["delta_loss"] == pytest.approx(after, abs=1e-4)
