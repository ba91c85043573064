"""The whole way through the real commands, on processes of their own: text in, report out."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sae_dist.evaluate import read_evaluation
from sae_dist.store import open_store
from tests.apps.commands import ROOT, TORCHRUN, command, launch
from tests.harvest.tiny import contents, tokenizer
from tests.lm.tiny import tiny_model
from tests.processes import launched

ACCELERATE = ("-m", "accelerate.commands.launch")
REPLICAS = (
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
ZERO3 = ("--config_file", str(ROOT / "launch/accelerate/zero3.yaml"), "--num_processes", "2")
SITES = "sites=[resid_post.1,mlp_in.1,mlp_out.1]"
SEQUENCES = ("text.path=text", "text.sequence_length=32", SITES, "writer.shard_mib=0.06")
SKIP = "{coder:topk_skip_transcoder,site:mlp_in.1,target:mlp_out.1}"
LADDER = (
    *("tokens=2048", "batch_tokens=64", "stream.bucket_tokens=1024"),
    *("checkpoint.every_steps=20", "log.every_steps=8", "coder.num_latents=64", "coder.k=4"),
    f"sweep.grids=[{{coder:[topk,jumprelu],site:resid_post.1}},{SKIP}]",
)
SMALL_LM = (
    *("small_lm", "folder=lm", "text.path=text", "model.vocab_size=300"),
    *("model.hidden_size=32", "model.intermediate_size=48", "model.num_layers=2"),
    *("model.num_heads=2", "model.sequence_length=32", "model.num_steps=10"),
)
HARVEST = (
    *(*ACCELERATE, *REPLICAS, launch("harvest"), "lm.name=lm", "store=store", *SEQUENCES),
    *("tokens=6K", "writer.chunk_mib=0.03", "writer.held_out=0.2"),
)
OF_A_LLAMA = (
    *("harvest", "lm.name=lm", *SEQUENCES, "tokens=3K", "harvest.batch_sequences=4"),
    *("writer.dtype=float32", "writer.held_out=0", "writer.chunk_mib=0.03"),
)
TRAIN = (*TORCHRUN, "2", launch("train"), "store=store", "run=tiny", *LADDER)
NAMES = [
    *("jumprelu-64-lambda0.0006-resid_post.1", "topk-64-k4-resid_post.1"),
    "topk_skip_transcoder-64-k4-mlp_in.1",
]


def write_text(folder: Path, num_files: int = 40) -> None:
    folder.mkdir()
    for i in range(num_files):
        lines = (f"{i} times {j} is {i * j}, and {j} times {i} too.\n" for j in range(12))
        (folder / f"{i:02}.txt").write_text("".join(lines))


def succeed(*arguments: str, cwd: Path, **environment: str) -> str:
    """Run a command; what it said."""
    done = command(*arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole way was gone once, by two processes."""
    home = tmp_path_factory.mktemp("home")
    write_text(home / "text")
    assert "small LM: " in launched(1, *SMALL_LM, cwd=home)
    assert "sealed store" in succeed(*HARVEST, cwd=home)
    assert "store is whole" in launched(1, "verify", "store=store", cwd=home)
    assert "coders in runs/tiny/coders" in succeed(*TRAIN, cwd=home)
    said = launched(2, "evaluate", "run=tiny", "parallel.latent=2", cwd=home)
    assert "figures in runs/tiny/evaluation" in said
    assert "report in runs/tiny/report" in launched(1, "report", "run=tiny", cwd=home)
    return home


def test_from_text_to_a_report(home: Path) -> None:
    run = home / "runs" / "tiny"
    results = read_evaluation(run)
    assert sorted(results["rungs"]) == NAMES == sorted(p.name for p in (run / "coders").iterdir())
    assert all("delta_loss" in figures for figures in results["rungs"].values())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    expected = [step for step in (7, 15, 23, 31) for _ in range(4)]
    assert [json.loads(line)["step"] for line in lines] == expected
    page = (run / "report" / "index.html").read_text()
    assert all(name in page for name in NAMES)


@pytest.mark.slow
def test_second_runs_find_nothing_to_do(home: Path) -> None:
    before = kept(home)
    assert "lm holds a model already: nothing to do" in launched(1, *SMALL_LM, cwd=home)
    assert "store is sealed already: nothing to do" in succeed(*HARVEST, cwd=home)
    assert "going on from runs/tiny/checkpoints/step-32" in succeed(*TRAIN, cwd=home)
    assert kept(home) == before


def kept(home: Path) -> dict[str, bytes]:
    """All files but the lock, which names the last process that held it."""
    return {path: data for path, data in contents(home).items() if not path.endswith("/lock")}


def activations(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if "/activations/" in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a language model, and the store of one process that held all of it."""
    home = tmp_path_factory.mktemp("whole")
    write_text(home / "text")
    tiny_model("llama").save_pretrained(home / "lm")
    tokenizer().save_pretrained(home / "lm")
    assert "sealed whole" in launched(1, *OF_A_LLAMA, "store=whole", cwd=home)
    return home


@pytest.mark.skipif(
    not importlib.util.find_spec("deepspeed"), reason="ZeRO-3 needs the package deepspeed"
)
def test_a_language_model_spread_by_zero3_gives_the_same_activations(whole: Path) -> None:
    spread = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
    spread["TORCH_EXTENSIONS_DIR"] = str(whole / "compiled")
    said = launched(2, *OF_A_LLAMA, "store=spread", cwd=whole, **spread)
    assert "sealed spread" in said
    assert len(activations(whole / "spread")) > 10
    assert activations(whole / "spread") == activations(whole / "whole")
    assert not (whole / "compiled").exists()


def test_a_language_model_sliced_over_two_processes_gives_the_same_activations(
    whole: Path,
) -> None:
    sliced = (*OF_A_LLAMA, "lm.tensor=2", "store=sliced")
    assert "sealed sliced" in launched(2, *sliced, cwd=whole)
    assert "sliced is sealed already: nothing to do" in launched(2, *sliced, cwd=whole)
    expected, found = (open_store(whole / name) for name in ("whole", "sliced"))
    assert expected.layout == found.layout
    for site in found.sites:
        for chunk in range(len(found.chunk_rows)):
            assert np.array_equal(found.read_index(chunk), expected.read_index(chunk))
            acts = [store.read_rows(site, chunk) for store in (found, expected)]
            np.testing.assert_allclose(*acts, rtol=1e-5, atol=2e-6)
