"""Weights of any program in one form, and accuracy's and the tables' arithmetic."""

from typing import Any

import pytest
import torch

from benchmarks.accuracy import rows_of
from benchmarks.curves import CURVES, drawing, standalone
from benchmarks.table import (
    accuracy_section,
    figures,
    flat,
    quality_section,
    storage_section,
    table,
)
from benchmarks.trained.task import Weights
from benchmarks.training import as_coder

F, D, K = 24, 6, 3


def weights(*, has_threshold: bool) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = [(F, D), (F,), (F, D), (D,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    threshold = torch.rand(F, generator=generator) if has_threshold else None
    return Weights(*tensors, threshold)


def rows(num: int = 40) -> torch.Tensor:
    return torch.randn(num, D, generator=torch.Generator().manual_seed(1))


def programs_own(w: Weights, x_BD: torch.Tensor, *, pre_bias: bool, by_norm: bool) -> torch.Tensor:
    """What a peer's coder computes, written as the peers write it."""
    norm_F = w.W_dec.norm(dim=1) if by_norm else torch.ones(F)
    z_BF = ((x_BD - w.b_dec if pre_bias else x_BD) @ w.W_enc.T + w.b_enc) * norm_F
    if w.threshold is not None:
        acts_BF = z_BF * (z_BF > w.threshold)
    else:
        kth_B1 = z_BF.topk(K, dim=1).values[:, -1:]
        acts_BF = z_BF * ((z_BF >= kth_B1) & (z_BF > 0))
    return (acts_BF / norm_F) @ w.W_dec + w.b_dec


@pytest.mark.parametrize("has_threshold", [False, True])
@pytest.mark.parametrize("pre_bias", [False, True])
@pytest.mark.parametrize("by_norm", [False, True])
def test_folded_weights_give_what_the_program_gives(
    has_threshold: bool, pre_bias: bool, by_norm: bool
) -> None:
    own, x_BD, factor = weights(has_threshold=has_threshold), rows(), 3.0
    expected_BD = programs_own(own, x_BD * factor, pre_bias=pre_bias, by_norm=by_norm) / factor
    folded = own.folded(is_pre_bias=pre_bias, is_by_norm=by_norm, factor=factor)
    torch.testing.assert_close(folded.reconstruct(x_BD, K), expected_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_threshold", [False, True])
def test_the_one_evaluation_computes_what_the_weights_say(has_threshold: bool) -> None:
    own, x_BD = weights(has_threshold=has_threshold), rows()
    tensors = {name: value for name, value in vars(own).items() if value is not None}
    with torch.no_grad():
        torch.testing.assert_close(
            as_coder(tensors, K)(x_BD), own.reconstruct(x_BD, K), rtol=1e-4, atol=1e-5
        )


def run(kind: str, precision: str, l0: float, fvu: float) -> dict[str, Any]:
    about = {"program": "sae_dist", "kind": kind, "setting": precision, "aim": 8.0}
    return about | {"seed": 0, "seconds": 1.0, "l0": l0, "fvu": fvu}


def test_accuracy_compares_a_jumprelu_at_the_target() -> None:
    found = rows_of(
        [
            run("topk", "float32", 8.0, 0.2),
            run("topk", "bfloat16", 8.0, 0.201),
            run("jumprelu", "float32", 4.0, 0.4),
            run("jumprelu", "float32", 16.0, 0.1),
            run("jumprelu", "bfloat16", 9.0, 0.3),
        ]
    )
    assert found[0]["ratio"] == pytest.approx(1.005)
    assert found[1]["float32"]["fvu"] == pytest.approx(0.2)
    assert found[1]["bfloat16"]["fvu"] is None and found[1]["ratio"] is None


def test_sections_show_the_figures() -> None:
    about = {"date": "2026-01-01", "versions": {"torch": "2"}, "tokens": 1024, "left_out": {}}
    about |= {"d_in": 6, "batch": 8, "held_out_tokens": 10, "num_latents": 24, "target_l0": 3}
    runs = [run("topk", "float32", 3.0, 0.25)]
    best = {"topk": {"sae_dist": {"setting": "float32", "fvu": 0.25, "spread": 0.001}}}
    best["topk"]["SAELens"] = {"setting": "own", "fvu": 0.5, "spread": None}
    quality = quality_section(about | {"best": best, "runs": runs})
    assert "| topk | SAELens | own | 0.5000 | – | 2.000 |" in quality
    accuracy = accuracy_section(about | {"rows": rows_of(runs), "runs": runs})
    assert "| topk | 3.00 | 0.2500 | – | – | – |" in accuracy
    rates = {"tokens_per_processor_second": 4.56e6, "cold_tokens_per_second": 1.5e6}
    rows = [
        {"dtype": "bfloat16", "bytes_per_token": 12.5, "stored_fvu": 0, "fvu": [0.2, 0.4]},
        {"dtype": "int8", "bytes_per_token": 10.25, "stored_fvu": 3e-05, "fvu": [0.33]},
    ]
    storage = storage_section(about | {"rows": [row | rates for row in rows]})
    assert "| bfloat16 | 12.5 | 0 | 0.3000 | 0.1414 | 1.0000 | 4.56M | 1.5M |" in storage
    assert "| int8 | 10.2 | 3e-05 | 0.3300 | – | 1.1000 | 4.56M | 1.5M |" in storage


def test_a_table_has_as_many_columns_as_its_head() -> None:
    assert table("a | b", [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_nested_figures_are_shown_by_dotted_names() -> None:
    assert list(flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3})) == [
        ("a.b", 1),
        ("a.c.d", 2),
        ("e", 3),
    ]
    assert "| a.b | 0.1235 |" in figures("Stream", {"a": {"b": 0.123456}})
    assert figures("Stream", None) == ""


@pytest.mark.parametrize("name", CURVES)
def test_a_drawing_is_a_file_of_its_own_with_its_axes_named(name: str) -> None:
    curve = CURVES[name]
    points = [
        {"kind": kind} | curve.point(value) | {"ms": float(value)}
        for kind in ("topk", "jumprelu")
        for value in curve.values
    ]
    svg = drawing(name, points)
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert curve.label in svg and "step (ms)" in svg and ">jumprelu<" in svg


def test_a_drawing_brings_every_colour_it_names() -> None:
    svg = standalone('<svg viewBox="0 0 1 1"><path style="stroke: var(--series-2)"/></svg>')
    assert "--series-2: #" in svg and svg.count("prefers-color-scheme: dark") == 1
