"""The W&B workspace of a run, as it would be sent, beside what a run logs."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sae_dist.apps import dashboard as command
from sae_dist.common.errors import UserError
from sae_dist.report import dashboard, load
from tests.processes import alone
from tests.train.ladders import BATCH, make_store, rung, training_run
from tests.train.wandb_files import expected_history
from tests.train.wandb_server import KEY, WandbServer, wandb_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind of coder, with all parts of their losses."""
    root = tmp_path_factory.mktemp("runs")
    topk = rung("topk", multi_topk=True, dead_after_tokens=BATCH)
    rungs = [rung("jumprelu"), topk, rung("batchtopk")]
    store = make_store(root / "store", num_tokens=2048)
    training_run(alone(), store, root / "ladder", rungs, 12).run()
    (root / "ladder" / "config.yaml").write_text("store: store\nlog: {project: p, entity: e}\n")
    return root / "ladder"


def logged(folder: Path) -> set[str]:
    """The names under which W&B has a run's figures (tests/train/test_trackers.py)."""
    rungs = {json.loads(line)["rung"] for line in (folder / "metrics.jsonl").open()} - {None}
    rows = [row for rung in rungs for row in expected_history(folder / "metrics.jsonl", rung)]
    return {name for row in rows for name in row} - {"_step"}


def drawn(spec: dict[str, Any]) -> set[str]:
    """All metrics on the panels of a serialised workspace."""
    names = set()
    for section in spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            axes = [config["xAxis"], *config.get("metrics", []), config.get("yAxis")]
            names |= {axis.removeprefix("summary:") for axis in axes if axis}
    return names


def test_panels_show_every_figure_that_is_logged_and_no_other(folder: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    made = dashboard.workspace(load(folder), "e", "p")
    spec = json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    assert drawn(spec) == logged(folder)
    (runs,) = spec["section"]["runSets"]
    assert '"group"' in json.dumps(runs["filters"]) and '"ladder"' in json.dumps(runs["filters"])


def test_what_was_not_logged_has_no_panel(folder: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    results = load(folder)
    results.metrics = [line for line in results.metrics if line["rung"] == "topk-autoencoder"]
    made = dashboard.workspace(results, "e", "p")
    spec = json.loads(made._to_model().spec.model_dump_json(by_alias=True))
    assert not any(name.startswith(("threshold", "stall")) for name in drawn(spec))
    assert "Speed" in [s["name"] for s in spec["section"]["panelBankConfig"]["sections"]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    wandb = pytest.importorskip("wandb")
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # which reads the environment once
        yield server
        wandb.teardown()  # while there is somebody to tell the rest to


def test_the_command_saves_it_and_says_where(
    folder: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("wandb_workspaces")
    arguments = ["dashboard", f"run={folder.name}", f"runs={folder.parent}"]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("e", "p", "ladder")
    assert drawn(json.loads(view["spec"])) == logged(folder)
    assert f"dashboard in {server.url}/e/p?nw=" in capsys.readouterr().err
    server.refuses = True
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "error: W&B refused the dashboard" in capsys.readouterr().err


def test_without_the_package_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'sae-dist\[wandb\]'"):
        dashboard.workspace(load(folder), "e", "p")
