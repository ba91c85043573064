from itertools import combinations

import numpy as np
import pytest

from sae_dist.report import RungResult, RunResults
from sae_dist.report.figures.training import thin
from sae_dist.report.styles import assign_looks, legend_of_dashes, palette, width_label


def _rung(name: str, kind: str, num_latents: int, site: str = "a") -> RungResult:
    return RungResult(
        name=name, kind=kind, form="autoencoder", site=site, target=site, num_latents=num_latents
    )


def test_one_width_has_one_colour_and_one_kind_one_marker() -> None:
    rungs = [_rung("a", "topk", 512), _rung("b", "topk", 256), _rung("c", "jumprelu", 512)]
    looks = assign_looks(RunResults(name="run", rungs=rungs))
    assert [looks[name].colour for name in "abc"] == [1, 0, 1]
    assert looks["a"].marker == looks["b"].marker != looks["c"].marker
    assert looks["a"].group == "TopK"


def test_kinds_at_several_sites_get_a_panel_each() -> None:
    rungs = [_rung("a", "topk", 512, "embed"), _rung("b", "topk", 512, "resid_post.1")]
    looks = assign_looks(RunResults(name="run", rungs=rungs))
    assert [looks[name].group for name in "ab"] == ["TopK · embed", "TopK · resid_post.1"]


def test_widths_are_written_as_the_field_writes_them() -> None:
    labels = [width_label(width) for width in (300, 512, 1024, 16384, 1 << 20, 5000)]
    assert labels == ["300", "512", "1K", "16K", "1M", "5,000"]


def test_a_palette_has_as_many_different_colours_as_asked() -> None:
    for count in (0, 1, 2, 7):
        assert len(set(palette(count, dark=True))) == len(set(palette(count, dark=False))) == count


def test_rungs_are_called_by_what_tells_them_apart() -> None:
    rungs = [_rung("a", "topk", 512), _rung("b", "topk", 256), _rung("c", "topk", 256)]
    rungs[1].k, rungs[2].k = 8, 16
    looks = assign_looks(RunResults(name="run", rungs=rungs))
    assert [looks[name].short for name in "abc"] == ["TopK 512", "TopK 256 k 8", "TopK 256 k 16"]
    rungs[2].k = 8
    looks = assign_looks(RunResults(name="run", rungs=rungs))
    assert [looks[n].short for n in "abc"] == ["TopK 512", "TopK 256 k 8 b", "TopK 256 k 8 c"]


def test_rungs_of_one_width_have_lines_of_their_own() -> None:
    rungs = [_rung(f"{width}-k{k}", "topk", width) for width in (256, 512) for k in (8, 16)]
    for rung in rungs:
        rung.k = int(rung.name.partition("-k")[2])
    looks = assign_looks(RunResults(name="run", rungs=rungs))
    assert [look.dash for look in looks.values()] == [0, 1, 0, 1]
    assert [entry.label for entry in legend_of_dashes(looks.values())] == ["k 8", "k 16"]
    for rung in rungs:
        rung.k = 8
    rungs[0].name, rungs[1].name = "topk-k8-lr0.001-s", "topk-k8-lr0.002-s"
    looks = assign_looks(RunResults(name="run", rungs=rungs[:2]))
    assert [look.tag for look in looks.values()] == ["256 · k 8 lr0.001", "256 · k 8 lr0.002"]
    assert [look.dash for look in looks.values()] == [0, 1]
    looks = assign_looks(RunResults(name="run", rungs=rungs[1:3]))
    assert {look.dash for look in looks.values()} == {0}
    assert legend_of_dashes(looks.values()) == []


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


def test_a_long_curve_is_thinned_to_means_that_keep_its_average() -> None:
    steps, values = list(range(2400)), [float(step % 10) for step in range(2400)]
    thin_steps, thin_values = thin(steps, values)
    assert len(thin_steps) == 240
    assert set(thin_values) == {4.5}
    assert thin([3], [7.0]) == ([3], [7.0])
    assert thin([], []) == ([], [])
