from itertools import combinations
from typing import Any

import numpy as np
import pytest

from sae_dist.common.html import palette
from sae_dist.report import RunResults
from sae_dist.report.results import described, width_label
from sae_dist.report.styles import DASHES, Style, assign_styles, legend


def _rung(name: str, kind: str, num_latents: int, site: str = "a", **more: Any) -> dict[str, Any]:
    about = {"kind": kind, "form": "autoencoder", "site": site, "num_latents": num_latents}
    return described({"rung": name} | about | more)


def _styles(*rungs: dict[str, Any]) -> dict[str, Style]:
    return assign_styles(RunResults(name="run", rungs=list(rungs)))


def _looks(styles: dict[str, Style]) -> list[tuple[int, int, str]]:
    return [(style.colour, style.dash, style.marker) for style in styles.values()]


def test_one_width_has_one_colour_and_one_kind_one_marker() -> None:
    styles = _styles(_rung("a", "topk", 512), _rung("b", "topk", 256), _rung("c", "jumprelu", 512))
    assert [styles[name].colour for name in "abc"] == [1, 0, 1]
    assert styles["a"].marker == styles["b"].marker != styles["c"].marker
    assert [style.group for style in styles.values()] == ["TopK · a", "TopK · a", "JumpReLU · a"]


def test_widths_are_written_as_the_field_writes_them() -> None:
    labels = [width_label(width) for width in (300, 512, 1024, 16384, 1 << 20, 5000)]
    assert labels == ["300", "512", "1K", "16K", "1M", "5,000"]


def test_a_palette_has_as_many_different_colours_as_asked() -> None:
    for count in (0, 1, 2, 7):
        assert len(set(palette(count, dark=True))) == len(set(palette(count, dark=False))) == count


def test_rungs_are_called_by_what_tells_them_apart() -> None:
    a, b = _rung("a", "topk", 512), _rung("b", "topk", 256, k=8)
    styles = _styles(a, b, _rung("c", "topk", 256, k=16))
    assert [style.short for style in styles.values()] == [
        "TopK 512",
        "TopK 256 k 8",
        "TopK 256 k 16",
    ]
    styles = _styles(a, b, _rung("c", "topk", 256, k=8))
    assert [s.short for s in styles.values()] == ["TopK 512", "TopK 256 k 8 b", "TopK 256 k 8 c"]


def test_rungs_of_one_width_have_lines_of_their_own() -> None:
    rungs = [_rung(f"{w}-k{k}", "topk", w, k=k) for w in (256, 512) for k in (8, 16)]
    styles = _styles(*rungs)
    assert [style.dash for style in styles.values()] == [0, 1, 0, 1]
    assert [e.label for e in legend(styles.values())] == ["256", "512", "k 8", "k 16"]
    assert [entry.label for entry in legend(_styles(*rungs[1:3]).values())] == ["256", "512"]


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("widths", [(256,), (256, 512)])
@pytest.mark.parametrize("varied", ["k", "lr", "seed"])
def test_whatever_varies_no_two_rungs_of_a_panel_look_alike(
    varied: str, widths: tuple[int, ...], count: int
) -> None:
    rungs = [
        _rung(f"topk-{w}-{varied}{i}", "topk", w, k=8 * (1 + i) if varied == "k" else 8)
        for w in widths
        for i in range(count)
    ]
    styles = _styles(*rungs)
    assert len(set(_looks(styles))) == len({s.tag for s in styles.values()}) == len(rungs)
    if len(widths) == 1:
        assert {style.dash for style in styles.values()} == {0}  # colours tell them apart
    assert all(style.dash < len(DASHES) for style in styles.values())


@pytest.mark.parametrize(("dark", "ground"), [(False, "#ffffff"), (True, "#131418")])
@pytest.mark.parametrize("count", range(1, 8))
def test_colours_stand_out_and_differ_without_colour_vision(
    count: int, dark: bool, ground: str
) -> None:
    colours = [_linear(colour) for colour in palette(count, dark)]
    assert min(_contrast(colour, _linear(ground)) for colour in colours) >= 3
    for matrix in (_PROTANOPIA, _DEUTERANOPIA):
        seen = [_lab(matrix @ colour) for colour in colours]
        assert all(np.linalg.norm(a - b) > 10 for a, b in combinations(seen, 2))


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
_PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _contrast(colour: np.ndarray, ground: np.ndarray) -> float:
    """As WCAG 2 defines it; 3 is asked of graphics."""
    low, high = sorted(float(_TO_XYZ[1] @ c) for c in (colour, ground))
    return (high + 0.05) / (low + 0.05)


def _lab(colour: np.ndarray) -> np.ndarray:
    xyz = _TO_XYZ @ colour.clip(0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
