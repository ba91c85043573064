"""Figures 1 and 2 of Paulo et al. 2025 are drawn of what the commands leave of real coders."""

from pathlib import Path

import pytest

from sae_dist.apps import evaluate, explain, latents, report, train
from tests.apps.test_commands import Command, evaluation, harvested_from, run  # noqa: F401
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model
from tests.report.test_page import plots_of

SIZES = "coder.num_latents:[16,32],coder.k:[2,4]"
FORMS = (
    f"{{coder:topk,{SIZES},site:mlp_out.1}}",
    f"{{coder:[topk_transcoder,topk_skip_transcoder],{SIZES},site:mlp_in.1,target:mlp_out.1}}",
)
TRAIN = ("tokens=64", "batch_tokens=32", "stream.bucket_tokens=64", "log.wandb=disabled")
LATENTS = ("strongest=1", "quantiles=1", "per_quantile=0", "neighbours=0", "window=4")
WINDOWS = ("window=4", "quantiles=2", "explain=1", "score=2", "min_windows=6", "inactive=2")


def test_forms_widths_and_k_are_drawn_against_what_the_lm_loses(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    harvested_from(tmp_path / "lm", tmp_path / "store")
    run(train.main, "store=store", "run=r", f"sweep.grids=[{','.join(FORMS)}]", *TRAIN)
    run(evaluate.main, "run=r", "measures=[lm_loss]")
    with pytest.raises(SystemExit, match="2"):
        run(latents.main, "run=r", "lm_name=./gone")
    assert not (tmp_path / "runs/r/latents").exists()  # it is refused before anything is read
    run(latents.main, "run=r", *LATENTS)
    windows = (f"examples.{setting}" for setting in WINDOWS)
    run(explain.main, "run=r", "judge=oracle", "num_latents=2", "control_latents=0", *windows)
    run(report.main, "run=r")
    rungs = evaluation(tmp_path / "runs/r")["rungs"]
    plots = plots_of((tmp_path / "runs/r/report/index.html").read_text())
    figure_1 = {panel["title"]: panel["series"] for panel in plots["interpretability"]["panels"]}
    assert list(figure_1) == ["16", "32"]
    drawn = {one["rung"]: one["columns"] for series in figure_1.values() for one in series}
    assert drawn.keys() == rungs.keys() and len(drawn) == 12
    for name, columns in drawn.items():
        assert columns["x"] == pytest.approx([rungs[name]["ce_increase_percent"]], rel=1e-5)
        assert columns["y"] == [1]
    for scorer in ("detection", "fuzzing"):
        for which, values in (("latents", [1]), ("quantiles", [1, 1])):
            (panel,) = plots[f"{scorer}-{which}"]["panels"]
            assert [one["columns"]["y"] for one in panel["series"]] == [values] * 12
