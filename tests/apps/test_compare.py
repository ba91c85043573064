import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_dist.apps import compare
from sae_dist.evaluate.results import ABOUT, VERSION, run_path, rung_path, write_record
from tests.evaluate.made_up import rung


def write_run(name: str, fvu: float, **others: Any) -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    settings = {"store": "s", "run": name, "seed": int(name[-1])}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    write_record(run_path(folder, ABOUT), {"version": VERSION, "lm": None} | others)
    figures = rung(256, 8, fvu=fvu)
    write_record(rung_path(folder, "topk", "coder"), {"of": {}, "figures": figures})
    return run_path(folder, ABOUT)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["sae-dist compare", *arguments])
    compare.main()


def test_seeds_are_put_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, fvu in (("seed0", 0.2), ("seed1", 0.4)):
        write_run(name, fvu)
    run(monkeypatch, "run=[seed0,seed1]", "to=runs/both")
    assert "topk (2): L0 8 ± 0, FVU 0.3 ± 0.14" in capsys.readouterr().err
    found = json.loads(Path("runs/both/comparison.json").read_text())
    assert found["rungs"]["topk"]["fvu"]["values"] == [0.2, 0.4]
    assert found["rungs"]["topk"]["runs"] == found["runs"] == ["seed0", "seed1"]


def test_what_cannot_be_compared_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_run("old1", 0.2, version=1)
    write_run("bad2", 0.2).write_text("{")
    write_run("none3", 0.2).unlink()
    write_run("good4", 0.2)
    for names, said in {
        "": "run=[]; expected one or more different ones",
        "good4,good4": "run=[good4,good4]; expected one or more different ones",
        "good4,old1": f"old1/evaluation has version 1; expected {VERSION}",
        "bad2": "bad2/evaluation/about.json unreadable (JSONDecodeError",
        "none3": "found nothing measured in runs/none3; expected an evaluated run",
        "missing": "no run in runs/missing",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, f"run=[{names}]", "to=runs/both")
        assert said in capsys.readouterr().err
    assert not Path("runs/both").exists()
