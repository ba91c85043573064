"""What can be known is known at the start, and what was refused leaves nothing behind."""

import json
import re
from collections import namedtuple
from pathlib import Path

import pytest

from sae_dist.apps import compare, dashboard, evaluate, export, harvest, import_coder, report, train
from sae_dist.store import open_store
from tests.apps.test_commands import SETTINGS, STREAM, Command, run  # noqa: F401 - a fixture
from tests.apps.test_live import write_lm
from tests.harvest.tiny import contents
from tests.live.tiny import write_text
from tests.train.ladders import make_store

GIVEN = (
    *("lm.name=./lm", "text.path=./text", "text.sequence_length=8", "tokens=2K", "store=store"),
    *("harvest.batch_sequences=4", "writer.held_out=0", "sites=[resid_post.1]"),
)
WRONG = {
    "text.path=./txet": "found no txet; expected a text file or folder",
    "text.path=./half": "expected a whole .txt file in UTF-8",
    "text.path=./short": "expected enough for one sequence of 8 tokens",
    "text.sequence_length=4096": "needs 4096 positions; expected at most 2048, all that ./lm knows",
    "lm.name=./ml": "found no folder ml; expected a saved model; correct lm.name",
    "lm.auto_class=AutoModel2": "found lm.auto_class=AutoModel2",
    "lm.tensor=3": "lm.tensor=3 with",
    "sites=[resid_post.9]": "expected a layer from 0 to 2",
    "tokens=7": "expected at least one of each",
    "writer.max_norm=0.5": "writer.max_norm=0.5; expected more than 1",
}
Disk = namedtuple("Disk", "free")


def test_a_refused_harvest_leaves_nothing_that_refuses_the_next(
    run: Command,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_lm(tmp_path / "lm")
    write_text(tmp_path / "text")
    for name, first, second in (("half", "the a b saw " * 9, b"\xff"), ("short", "the", b"a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(first)
        (tmp_path / name / "2.txt").write_bytes(second)
    before = contents(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("sae_dist.common.disk.shutil.disk_usage", lambda folder: Disk(9000))
        with pytest.raises(SystemExit, match="2"):
            run(harvest.main, *GIVEN)
    assert "found 9e-06 GB free" in capsys.readouterr().err
    for wrong, said in WRONG.items():
        with pytest.raises(SystemExit, match="2"):
            run(harvest.main, *GIVEN, wrong)
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert contents(tmp_path) == before and not (tmp_path / "store").exists()
    run(harvest.main, *GIVEN)
    assert open_store("store").sites == {"resid_post.1": 32}


def test_imported_coders_are_a_run_that_every_command_reads(
    run: Command,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    make_store(tmp_path / "store", num_tokens=2048)
    run(train.main, "store=store", "run=r", "site=in", *SETTINGS, *STREAM)
    run(evaluate.main, "run=r")
    run(export.main, "run=r", "to=sparsify")
    rung = "topk-32-k4-in"
    path = f"path=runs/r/exports/sparsify/{rung}"
    run(import_coder.main, path, f"to=runs/theirs/coders/{rung}", "site=in")
    capsys.readouterr()
    for command, arguments, said in (
        (evaluate.main, (), "run=theirs was not trained here, so that its store is not known"),
        (dashboard.main, (), "run=theirs was not trained here, and W&B knows nothing of it"),
        (report.main, (), "found neither an evaluation nor metrics"),
        (evaluate.main, ("store=sotre",), "found no store at sotre"),
        (evaluate.main, ("run=theires",), "no run in runs/theires; .* did you mean theirs?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(command, "run=theirs", *arguments)
        assert_said(capsys, said)
    run(evaluate.main, "run=theirs", "store=store", "max_sequences=10000")
    assert "are held out, and all of them are read" in capsys.readouterr().err
    run(report.main, "run=theirs")
    run(export.main, "run=theirs", "to=saelens")
    assert (tmp_path / "runs/theirs/exports/saelens" / rung).is_dir()
    run(compare.main, "run=[r,theirs]", "to=runs/both")
    compared = json.loads((tmp_path / "runs/both/comparison.json").read_text())["rungs"]
    assert sorted(compared) == [f"r/{rung}", f"theirs/{rung}"]  # they are no seeds of each other
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match="2"):
        run(evaluate.main, "run=r")
    assert_said(capsys, "found no store, the store that run=r was trained on; .* or store=… to say")
    run(evaluate.main, "run=r", "store=moved")


def assert_said(capsys: pytest.CaptureFixture, said: str) -> None:
    assert re.search(f"^error: .*{said}", capsys.readouterr().err, re.MULTILINE)
