"""Activations of which some figures are not defined, from a store to the report: null, and "–"."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sae_dist.apps import compare, evaluate, report, train
from sae_dist.store import write_store
from tests.apps.test_commands import Command, evaluation, run  # noqa: F401 - a fixture

SETTINGS = (
    *("sweep.grids=[{coder:[jumprelu,topk,batchtopk],coder.num_latents:[32,64]}]", "coder.k=4"),
    *("tokens=640", "batch_tokens=64", "stream.bucket_tokens=256"),
    *("coder.dead_after_tokens=128", "coder.aux_k=8", "optim.warmup_steps=0"),
    *("log.every_steps=2", "log.wandb=disabled"),
)
ROWS, NORMAL = 512, np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32)
VARYING = {
    "two values": np.tile(NORMAL[:2], (ROWS // 2, 1)),
    "one value not zero": np.eye(16, dtype=np.float32)[:1] * (np.arange(ROWS) % 2)[:, None],
}
CONSTANT = {
    "equal values": np.full((ROWS, 16), 3.0, np.float32),
    "equal rows": np.tile(NORMAL[:1], (ROWS, 1)),
    "equal rows, huge": np.tile(1e30 * NORMAL[:1], (ROWS, 1)),
    "equal rows, tiny": np.tile(1e-30 * NORMAL[:1], (ROWS, 1)),
}


def strictly(text: str) -> Any:
    """JSON as every parser reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def trained(run: Command, rows: np.ndarray) -> list[dict[str, Any]]:  # noqa: F811
    """Train a ladder of all kinds on these rows; returns what was logged of its rungs."""
    write_store("store", {"x": rows}, dtype="float32", chunk_mib=2**-9, shard_mib=2**-7)
    run(train.main, "store=store", "run=r", *SETTINGS)
    lines = Path("runs/r/metrics.jsonl").read_text().splitlines()
    return [line for line in map(strictly, lines) if line["rung"]]


def evaluated(run: Command) -> dict[str, Any]:  # noqa: F811
    """Evaluate and compare; returns the evaluation."""
    run(evaluate.main, "run=r")
    run(compare.main, "run=[r]", "to=compared")
    strictly(Path("compared/comparison.json").read_text())
    return evaluation(Path("runs/r"))


@pytest.mark.parametrize("rows", CONSTANT.values(), ids=CONSTANT)
def test_what_does_not_vary_is_learned_and_has_no_fvu(
    run: Command,  # noqa: F811
    rows: np.ndarray,
) -> None:
    logged = trained(run, rows)
    assert all(line["fvu"] is None and line["loss"] >= 0 for line in logged)
    assert all(line["skipped_steps"] == 0 for line in logged)
    assert logged[-1]["loss/reconstruction"] < logged[0]["loss/reconstruction"] + 1e-6
    for figures in evaluated(run)["rungs"].values():
        assert figures["fvu"] is figures["variance_explained"] is None
        assert set(figures["fvu_variants"].values()) == {None}
        assert set(figures["by_position"]["fvu"]) == {None}
        assert figures["by_position"]["mse"][0] >= 0
        assert figures["cosine_similarity"] <= 1.000001


@pytest.mark.parametrize("rows", VARYING.values(), ids=VARYING)
def test_what_varies_has_figures_of_any_size(
    run: Command,  # noqa: F811
    rows: np.ndarray,
) -> None:
    logged = trained(run, rows)
    assert all(line["fvu"] >= 0 and line["skipped_steps"] == 0 for line in logged)
    for figures in evaluated(run)["rungs"].values():
        assert figures["fvu"] >= 0


@pytest.mark.parametrize("rows", [CONSTANT["equal values"], 1e30 * NORMAL], ids=["equal", "huge"])
def test_the_report_shows_them(run: Command, rows: np.ndarray) -> None:  # noqa: F811
    trained(run, rows)
    fvus = [figures["fvu"] for figures in evaluated(run)["rungs"].values()]
    run(report.main, "run=r")
    page = Path("runs/r/report/index.html").read_text()
    assert page.count('data-key="fvu" data-value="">–</td>') == 3 * fvus.count(None)
    assert "FVU against L0" not in page or None not in fvus


def test_figures_do_not_depend_on_the_scale(run: Command, tmp_path: Path) -> None:  # noqa: F811
    found = []
    for scale in (1.0, 2.0**100, 2.0**-100):
        (tmp_path / str(scale)).mkdir()
        os.chdir(tmp_path / str(scale))
        losses = [line["loss"] for line in trained(run, np.float32(scale) * NORMAL)]
        keys = "l0", "fvu", "dead_share", "cosine_similarity", "l2_norm_ratio"
        found.append(losses + [rung[k] for rung in evaluated(run)["rungs"].values() for k in keys])
    for figures in found[1:]:  # sums of one row may differ by where in memory it lies
        assert figures == pytest.approx(found[0], rel=1e-6)


def test_zeros_are_refused(
    run: Command,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        trained(run, np.zeros((ROWS, 16), np.float32))
    assert "E‖x‖² = 0.0; expected finite activations" in capsys.readouterr().err


def test_a_coder_that_has_diverged_is_told(
    run: Command,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:
    trained(run, NORMAL)
    for path in Path("runs/r/coders").glob("*/*.safetensors"):
        weights = load_file(path)
        for name in ("W_dec", "b_dec"):
            weights[name].fill_(3e38)  # sums of which are infinite
        save_file(weights, path)
    capsys.readouterr()
    for figures in evaluated(run)["rungs"].values():
        assert figures["fvu"] is None and figures["l0"] >= 0
    assert "are not finite, and null in the evaluation" in capsys.readouterr().err
