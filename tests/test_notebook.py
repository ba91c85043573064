"""The notebook, as it is in the repository and as it runs on a small run of its own."""

import json
import shutil
from pathlib import Path

import pytest

from sae_dist.apps import harvest, small_lm, train
from tests.apps.commands import ROOT
from tests.harvest.tiny import TEXTS
from tests.reliability.bench import Desk

NOTEBOOK = ROOT / "notebooks" / "latents.ipynb"
HOME = "runs/quickstart_scratch"
SMALL_LM = (
    *(f"folder={HOME}/lm", "text.path=text", "model.vocab_size=300", "model.num_layers=3"),
    *("model.hidden_size=32", "model.intermediate_size=48", "model.num_heads=2"),
    *("model.sequence_length=32", "model.num_steps=10"),
)
HARVEST = (
    *(f"lm.name={HOME}/lm", "text.path=text", "text.sequence_length=32", "tokens=6K"),
    *("sites=[resid_post.2]", f"store={HOME}/store", "writer.held_out=0.2"),
    *("writer.chunk_mib=0.03", "writer.shard_mib=0.06"),
)
TRAIN = (
    *(f"store={HOME}/store", "run=quickstart_scratch", "coder=topk", "coder.num_latents=1024"),
    *("coder.k=8", "tokens=640", "batch_tokens=64"),
    *("stream.bucket_tokens=1024", "log.wandb=disabled"),
)


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
def test_every_cell_runs_and_shows_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    (tmp_path / "text").mkdir()
    for number in range(40):
        (tmp_path / "text" / f"{number:02}.txt").write_text("\n".join(TEXTS))
    desk = Desk(tmp_path)
    for command, arguments in ((small_lm, SMALL_LM), (harvest, HARVEST), (train, TRAIN)):
        done = desk.run(command.main, *arguments)
        assert done.status == 0, done.said
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(shutil.copy(NOTEBOOK, tmp_path / "notebooks"), as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    here = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=here).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [
        {kind for output in cell.outputs for kind in output.get("data", {output.output_type: 0})}
        for cell in code
    ]
    assert sum("image/png" in kinds for kinds in shown) == 4
    assert sum("text/html" in kinds for kinds in shown) == 1
    assert not any("error" in kinds for kinds in shown)
