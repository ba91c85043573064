from sae_dist.report import RungResult, RunResults
from sae_dist.report.curves import thin
from sae_dist.report.looks import assign_looks, palette, width_label


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


def test_a_long_curve_is_thinned_to_means_that_keep_its_average() -> None:
    steps, values = list(range(2400)), [float(step % 10) for step in range(2400)]
    thin_steps, thin_values = thin(steps, values)
    assert len(thin_steps) == 240
    assert set(thin_values) == {4.5}
    assert thin([3], [7.0]) == ([3], [7.0])
    assert thin([], []) == ([], [])
