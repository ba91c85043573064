import json
from pathlib import Path

import pytest

from sae_dist.common.errors import UserError
from sae_dist.report import load
from tests.report.made_up import made_up_rungs, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a_run", made_up_rungs(), steps=40)


def test_all_three_files_are_read(run: Path) -> None:
    results = load(run)
    assert results.name == "a_run"
    assert results.config["seed"] == 7
    assert [rung.name for rung in results.rungs] == list(made_up_rungs())
    assert results.rungs[0].fvu == made_up_rungs()["jumprelu_4096"]["fvu"]
    assert results.trained_rungs() == list(made_up_rungs())


def test_a_target_that_is_null_or_missing_is_the_site(run: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["rungs"]["topk_4096"]["target"] = None
    del evaluation["rungs"]["topk_16384"]["target"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert {rung.target for rung in load(run).rungs} == {"resid_post.2", "mlp_out.2"}


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
    assert results.curve("a", "l0") == ([0, 6], [1.5, 2.0])
    assert results.curve(None, "l0") == ([9], [3.0])


def test_a_folder_with_neither_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither evaluation\.json nor metrics\.jsonl"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"version": 3, "clean_loss": NaN, "rungs": {}}',
        '{"version": 1, "rungs": {}}',
        '{"version": 3, "rungs": {"a": {"k": 1}}}',
    ],
)
def test_an_evaluation_that_cannot_be_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json"):
        load(tmp_path)
