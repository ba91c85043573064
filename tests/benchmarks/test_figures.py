"""Figures and their table; the results in the repository, and that the README shows just them."""

from pathlib import Path

import pytest

from benchmarks.figures import (
    README,
    RESULTS,
    Figure,
    LeftOut,
    Results,
    read_results,
    with_results,
)

WHERE = {"date": "2026-01-01", "processor": "P (family 1, model 2)", "units": ["avx2"], "gpu": ""}
WHERE |= {"threads": 2, "commit": "abc", "versions": {"torch": "2"}}
FILES = sorted(RESULTS.glob("*.json"))


def test_less_time_and_more_of_a_rate_are_better() -> None:
    step = Figure("step", 100.0, "ms", floor=50.0, others={"a": 300.0, "b": 200.0})
    assert (step.times_floor, step.best_other, step.times_better) == (2.0, "b", 2.0)
    rate = Figure("rate", 2.0, "GB/s", floor=3.0, others={"a": 4.0, "b": 1.0})
    assert (rate.times_floor, rate.best_other, rate.times_better) == (1.5, "a", 0.5)
    alone = Figure("share", 0.01, "%", target="< 5 %")
    assert (alone.times_floor, alone.best_other, alone.times_better) == (None, None, None)
    assert step.cells() == ["step", "100 ms", "50", "2", "b, 200", "2", ""]
    assert alone.cells() == ["share", "0.01 %", "", "", "", "", "< 5 %"]


def test_results_are_written_and_read_and_a_figure_takes_its_own_place(tmp_path: Path) -> None:
    results = Results("made_up", WHERE, {"folder": Path("here")})
    results.add(LeftOut("b", "no time"))
    for value in (1.0, 2.0):
        results.add(Figure("a", value, "s", more={"k": 1}))
    results.add(LeftOut("c", "no peer"))
    results.add(Figure("b", 3.0, "s"))
    results.write(tmp_path / "made_up.json")
    found = read_results(tmp_path / "made_up.json")
    assert [(figure.name, figure.value) for figure in found.figures] == [("a", 2.0), ("b", 3.0)]
    assert found.left_out == {"c": "no peer"} and found.options == {"folder": "here"}

    page = "before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n"
    page = with_results(page, tmp_path)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    head, rule, title, *rows = (line for line in page.splitlines() if line.startswith("|"))
    assert title.startswith("| **made_up** |") and rows[0].startswith("| a | 2 s |")
    assert {line.count("|") for line in (head, rule, title, *rows)} == {8}
    assert "P (family 1, model 2); avx2; 2 threads; commit abc; torch 2" in page
    assert "left out: c: no peer" in page and with_results(page, tmp_path) == page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_are_well_formed(path: Path) -> None:
    results = read_results(path)
    assert path.stem.startswith(results.benchmark) and results.figures
    assert set(WHERE) <= set(results.where)
    assert all((RESULTS / name).is_file() for name in results.drawings)
    for figure in results.figures:
        assert figure.value >= 0 and all(value > 0 for value in figure.others.values())


def test_the_readme_shows_the_results_as_they_are() -> None:
    readme = README.read_text()
    assert with_results(readme) == readme
