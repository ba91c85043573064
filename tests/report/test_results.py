from pathlib import Path

import pytest

from sae_dist.common.errors import UserError
from sae_dist.report import load
from sae_dist.report.results import at, described, has
from tests.report.made_up import made_up_rungs, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a_run", made_up_rungs(), steps=40)


def test_all_files_are_read(run: Path) -> None:
    results = load(run)
    assert results.name == "a_run"
    assert results.config["seed"] == 7
    assert [rung["rung"] for rung in results.rungs] == list(made_up_rungs())
    assert results.rungs[0]["fvu"] == made_up_rungs()["jumprelu_4096"]["fvu"]
    assert results.trained_rungs() == list(made_up_rungs())


def test_records_say_in_words_what_they_are_of() -> None:
    about = {"kind": "topk", "form": "skip_transcoder", "site": "mlp_in.2", "target": "mlp_out.2"}
    record = described(about | {"loss": "delta_loss"})
    assert record["place"] == "mlp_in.2 → mlp_out.2"
    assert record["title"] == "TopK skip transcoder · mlp_in.2 → mlp_out.2 · Δ loss"
    assert described({"site": "embed", "target": None})["place"] == "embed"
    assert at({"a": {"b": 1}}, "a/b") == 1 and at({"a": 2}, "a/b") is None
    assert has({"a": {"b": None}}, "a/b") and not has({"a": None}, "a/b")


def test_a_torn_last_line_is_left_out(run: Path) -> None:
    expected = load(run).metrics
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "tok')
    assert load(run).metrics == expected


def test_a_torn_line_elsewhere_is_an_error_that_names_it(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:9]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 3"):
        load(run)


def test_a_curve_holds_finite_numbers_alone(tmp_path: Path) -> None:
    values = ["1.5", "NaN", "Infinity", "null", "true", '{"counts": []}', "2"]
    lines = [f'{{"step": {i}, "rung": "a", "l0": {value}}}' for i, value in enumerate(values)]
    lines.append('{"step": 9, "rung": null, "l0": 3}')
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    results = load(tmp_path)
    assert results.logged("a", "l0") == [(0, 1.5), (6, 2.0)]
    assert results.logged(None, "l0") == [(9, 3.0)]


def test_a_folder_with_neither_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither an evaluation nor metrics\.jsonl"):
        load(tmp_path)
