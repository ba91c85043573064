"""The benchmark results in the repository are well-formed, and the README shows just them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import combine
from benchmarks.table import README, machines, with_results

FILES = machines()
TEXTS, WHOLE = ["kind", "dtype"], ["num_latents", "d_in", "batch", "peak_bytes"]
REAL = ["ms", "l0", "floor_ms", "ratio_to_floor"]
STEP = dict.fromkeys(TEXTS, str) | dict.fromkeys(WHOLE, int) | dict.fromkeys(REAL, float)


def case(program: str, setting: str, ms: float) -> dict[str, Any]:
    measured = {"ms": ms, "l0": 32.0, "peak_bytes": 1, "floor_ms": 50.0}
    shape = {"kind": "topk", "num_latents": 8, "d_in": 4, "batch": 16}
    return {"program": program, "setting": setting} | shape | measured


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_are_well_formed(path: Path) -> None:
    results = json.loads(path.read_text())
    parts = {"steps", "stream", "harvest", "cases", "left_out"}
    assert {"machine", "date", "versions"} | parts == set(results)
    for step in results["steps"]:
        assert {name: type(step[name]) for name in STEP} == STEP
        assert step["ms"] > 0 and step["peak_bytes"] > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_follow_from_the_timed_cases(path: Path) -> None:
    results = json.loads(path.read_text())
    assert results["steps"] == combine(results["cases"])


def test_the_readme_shows_the_results_as_they_are() -> None:
    readme = README.read_text()
    assert with_results(readme) == readme


def test_the_best_peer_counts_in_its_fastest_setting_and_the_naive_step_does_not() -> None:
    own = case("sae_dist", "float32", 100.0)
    others = [
        case("sparsify", "highest", 300.0),
        case("sparsify", "medium", 200.0),
        case("SAELens", "bf16", 250.0),
        case("naive torch", "medium", 10.0),
    ]
    (row,) = combine([own, *others])
    assert row["peers"] == {"sparsify": 200.0, "SAELens": 250.0}
    assert (row["ratio_to_best_peer"], row["naive_ms"], row["ratio_to_floor"]) == (2.0, 10.0, 2.0)


def test_without_a_peer_there_is_no_ratio() -> None:
    (row,) = combine([case("sae_dist", "float32", 100.0)])
    assert row["peers"] == {} and row["ratio_to_best_peer"] is None
