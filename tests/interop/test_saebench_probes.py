"""Our probing measures beside SAEBench's own evaluations; see `test_saebench.py`."""

from statistics import fmean, stdev

import pytest

from tests.interop.saebench_probes import ABLATED, SEEDS, Probed, at, measure
from tests.interop.test_saebench import with_saebench

pytestmark = [pytest.mark.slow, with_saebench]
FEW = [f"top_{k}_test_accuracy" for k in (1, 2, 5)]
DIRECTIONS = {"metric": "score", "dir1": "class_by_attribute", "dir2": "attribute_by_class"}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Probed:
    return measure(tmp_path_factory.mktemp("probes"))


def assert_within_noise(theirs: list[float], ours: list[float], least: float) -> None:
    """Means that are less than three standard errors of their difference apart."""
    error = sum(stdev(values) ** 2 / len(values) for values in (theirs, ours)) ** 0.5
    assert abs(fmean(theirs) - fmean(ours)) < 3 * error + least, (theirs, ours)


def test_where_nothing_is_drawn_sparse_probing_is_the_same(probed: Probed) -> None:
    (theirs,), (ours,) = probed.theirs["two"], probed.ours["two"]
    for side in ("llm", "sae"):
        for key in (f"{side}_{few}" for few in FEW):
            assert ours[side][key] == pytest.approx(theirs[side][key], abs=1e-9), key
    assert 0.6 < ours["sae"]["sae_top_1_test_accuracy"] < 1


@pytest.mark.parametrize("side", ["llm", "sae"])
@pytest.mark.parametrize("figure", [*FEW, "test_accuracy"])
def test_sparse_probing_is_within_its_noise(probed: Probed, side: str, figure: str) -> None:
    key = f"{side}_{figure}"
    theirs, ours = (at(found["four"], side, key) for found in (probed.theirs, probed.ours))
    assert len(theirs) == len(ours) == SEEDS
    assert_within_noise(theirs, ours, 0.005)


def test_with_its_probes_scr_is_the_same(probed: Probed) -> None:
    metrics, ours = probed.theirs["scr"][0]["metrics"], probed.ours_of_its_probes["scr"]
    assert any(abs(value) > 0.05 for value in ours["score"])
    for theirs, name in DIRECTIONS.items():
        expected = [metrics[f"scr_{theirs}_threshold_{n}"] for n in ABLATED]
        assert ours[name] == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("place", range(len(ABLATED)))
@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("total_metric", "score"),
        ("intended_diff_only", "intended"),
        ("unintended_diff_only", "unintended"),
    ],
)
def test_tpp_is_within_its_noise(probed: Probed, place: int, theirs: str, name: str) -> None:
    key = f"tpp_threshold_{ABLATED[place]}_{theirs}"
    expected = at(probed.theirs["tpp"], "metrics", key)
    assert_within_noise(expected, [own[name][place] for own in probed.ours["tpp"]], 0.005)
    of_its_probes = probed.ours_of_its_probes["tpp"][name][place]
    assert of_its_probes == pytest.approx(expected[0], abs=3 * stdev(expected) + 0.02)
    if name == "intended":
        assert fmean(expected) > 0.02


def test_absorption_word_by_word_is_the_same(probed: Probed) -> None:
    fractions = [[side[0] for side in pair] for pair in probed.words]
    assert [ours for _, ours in fractions] == pytest.approx([t for t, _ in fractions], abs=1e-4)
    assert all(theirs[1] == ours[1] for theirs, ours in probed.words)
    assert any(0 < theirs < 1 for theirs, _ in fractions) and len(probed.words) > 40
    assert {theirs[1] for theirs, _ in probed.words} == {True, False}


@pytest.mark.parametrize(
    ("figure", "least"),
    [
        ("mean_absorption_fraction_score", 0.01),
        ("mean_full_absorption_score", 0.01),
        ("mean_num_split_features", 0.1),
        ("letters", 1),
    ],
)
def test_absorption_is_within_its_noise(probed: Probed, figure: str, least: float) -> None:
    theirs, ours = (at(found["absorption"], figure) for found in (probed.theirs, probed.ours))
    assert_within_noise(theirs, ours, least)
    assert fmean(theirs) > 0
