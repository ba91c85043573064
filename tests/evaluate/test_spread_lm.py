"""A language model larger than a device, evaluated over two processes as it was harvested."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from sae_dist.evaluate import read_evaluation
from tests.apps.commands import TORCHRUN, installed, launch
from tests.evaluate.test_evaluator import flat
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model
from tests.test_end_to_end import (
    ACCELERATE,
    LADDER,
    NAMES,
    REPLICAS,
    SEQUENCES,
    ZERO3,
    succeed,
    write_text,
)

EVALUATE = (*installed("evaluate"), "run=tiny", "lm_sequences=8", "uniformity_sequences=4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder on what a language model in two slices says, evaluated with the whole one."""
    home = tmp_path_factory.mktemp("spread")
    write_text(home / "text")
    tiny_model("llama").save_pretrained(home / "lm")
    tokenizer().save_pretrained(home / "lm")
    harvest = (*ACCELERATE, *REPLICAS, launch("harvest"), "lm.name=lm", "lm.tensor=2", *SEQUENCES)
    store = ("store=store", "writer.dtype=float32", "writer.held_out=0.2", "writer.chunk_mib=0.03")
    succeed(*harvest, *store, "tokens=6K", cwd=home)
    succeed(*installed("train"), "store=store", "run=tiny", *LADDER, cwd=home)
    succeed(*EVALUATE, cwd=home)
    (home / "runs/tiny/evaluation").rename(home / "evaluation")
    return home


def assert_evaluated_as_the_whole_one(home: Path) -> None:
    """Figures come back, and are taken away for the next."""
    rungs, expected = (read_evaluation(run)["rungs"] for run in (home / "runs/tiny", home))
    shutil.rmtree(home / "runs/tiny/evaluation")
    assert sorted(rungs) == NAMES
    assert all("uniformity" in rung and "delta_loss" in rung for rung in rungs.values())
    found = flat(rungs)
    assert found.keys() == flat(expected).keys()
    for key, value in flat(expected).items():
        # sums in float32, in another order: a ratio of small differences of losses shows it most
        close = pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
        assert found[key] == close, key


@pytest.mark.slow
def test_sliced_by_tensor_parallelism(home: Path) -> None:
    succeed(*TORCHRUN, "2", *EVALUATE, cwd=home)
    assert_evaluated_as_the_whole_one(home)


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("deepspeed"), reason="ZeRO-3 needs the package deepspeed"
)
def test_spread_by_zero3(home: Path) -> None:
    succeed(*ACCELERATE, *ZERO3, *EVALUATE, cwd=home, DS_ACCELERATOR="cpu")
    assert_evaluated_as_the_whole_one(home)
