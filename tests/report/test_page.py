import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Topic
from sae_dist.evaluate.registry import Declared, Needs, measures
from sae_dist.evaluate.results import read_figures, rung_path, write_figures
from sae_dist.report import RunResults, load, write_report
from sae_dist.report.page import render, topics
from sae_dist.report.plots import plot_data, thin
from sae_dist.report.styles import assign_styles
from tests.report.made_up import made_up_rungs, write_run

SHOWN = (
    "num_latents k l0 fvu delta_loss ce_increase_percent loss_recovered zero_ablation_loss "
    "dead_share cosine_similarity"
).split()
TOPICS = (
    "overview fidelity position latents scaling comparison pairs transfer training throughput "
    "configuration"
).split()


@pytest.fixture(scope="module")
def results(whole_run: Path) -> RunResults:
    return load(whole_run)


@pytest.fixture(scope="module")
def page(whole_run: Path) -> str:
    return (whole_run / "report" / "index.html").read_text()


def plots_of(page: str) -> dict[str, Any]:
    """The data that the page draws, by the key of its plot."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(found[1])["plots"] if found else {}


def without_library(page: str) -> str:
    """A page without Vega's own code, and without the data of its plots."""
    return re.sub(r"<script type=.*?</script>", "", page, flags=re.DOTALL)


class _Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _few(with_lm: bool = True) -> dict[str, dict[str, Any]]:
    return {name: made_up_rungs(with_lm)[name] for name in ("topk_4096", "topk_16384")}


def test_every_figure_of_every_rung_is_on_the_page(results: RunResults, page: str) -> None:
    for rung in results.rungs:
        for key in SHOWN:
            assert f'data-key="{key}" data-value="{"" if rung[key] is None else rung[key]}"' in page
        assert f": {rung['firing_frequency']['never']:,}" in page
    assert "3.812 nats a token" in page
    assert "262,144 of 2,048 sequences" in page
    assert "−0.6100 ± 0.06778" in page


def test_pages_of_latents_are_linked_where_they_are(tmp_path: Path, page: str) -> None:
    link = '<a href="../latents/index.html">'
    assert link not in page
    folder = write_run(tmp_path / "a_run", _few(), steps=20)
    (folder / "latents").mkdir()
    (folder / "latents" / "index.html").touch()
    assert render(load(folder)).count(link) == 2  # in the contents and among where to look


def test_every_topic_and_rung_has_a_part_and_a_link(results: RunResults, page: str) -> None:
    for key in [*TOPICS, *(f"rung-{rung['rung']}" for rung in results.rungs)]:
        assert re.search(f'<section class="page[^"]*" id="{re.escape(key)}">', page)
        assert f'href="#{key}"' in page


def test_every_declared_plot_is_drawn_from_lists_of_equal_length(page: str) -> None:
    plots = plots_of(page)
    declared = {plot.key for measure in measures().values() for plot in measure.plots}
    assert declared == {key for key in plots if not key.startswith("training-")}
    for panel in (panel for plot in plots.values() for panel in plot["panels"]):
        low, high = panel["scales"]["y"]["domain"]
        for series in panel["series"]:
            assert len({len(own) for own in series["columns"].values()}) == 1
            assert low <= min(series["columns"]["y"]) <= max(series["columns"]["y"]) <= high
    assert len(re.findall(r"<figcaption>\S", page)) == page.count("<figure ") > len(plots)


def test_plots_show_what_the_files_say(results: RunResults, page: str) -> None:
    plots = plots_of(page)
    points = {s["rung"]: s["columns"] for p in plots["fvu-l0"]["panels"] for s in p["series"]}
    curves = {
        s["rung"]: s["columns"] for p in plots["fvu-by-position"]["panels"] for s in p["series"]
    }
    for rung in results.rungs:
        own = points[rung["rung"]]
        assert own["x"] + own["y"] == pytest.approx([rung["l0"], rung["fvu"]], rel=1e-5)
        assert curves[rung["rung"]]["x"] == list(range(1, 128))
        assert curves[rung["rung"]]["y"] == pytest.approx(rung["by_position"]["fvu"][1:], rel=1e-5)
    for panel in plots["frequency"]["panels"]:
        for series in panel["series"]:
            (rung,) = (rung for rung in results.rungs if rung["rung"] == series["rung"])
            fired = 100 * (1 - rung["firing_frequency"]["never"] / rung["num_latents"])
            assert sum(series["columns"]["y"]) == pytest.approx(fired, abs=0.5)


def test_a_law_is_drawn_over_what_varies(page: str) -> None:
    panels = {panel["title"]: panel for panel in plots_of(page)["law"]["panels"]}
    assert panels["JumpReLU · resid_post.2 · FVU"]["labels"]["x"].startswith("L0")
    over_width = panels["TopK · resid_post.2 · FVU"]
    assert over_width["labels"]["x"].startswith("width")
    assert len({series["line"] for series in over_width["series"]}) == 1


def test_a_measure_of_another_package_is_drawn_like_ours(results: RunResults) -> None:
    class Probing(Declared):
        name, needs, group = "probing", Needs.CODES, "Probing"
        topic = Topic(key="probing", title="Probing", lead="What latents know.")
        figures = (Figure(key="probe/accuracy", heading="accuracy", is_main=True),)
        plots = (
            Plot(
                key="probe",
                mark=Mark.POINTS,
                title="Accuracy",
                caption="Of a probe.",
                x=Axis(key="l0", label="L0"),
                y=Axis(key="probe/accuracy", label="accuracy"),
            ),
        )

    rungs = [rung | {"probe": {"accuracy": 0.9}} for rung in results.rungs]
    changed = RunResults(name="r", rungs=rungs)
    overview, own, *_ = topics(changed, [Probing], assign_styles(changed))
    assert [figure.heading for figure in overview.tables[0].figures][-1] == "accuracy"
    assert [table.title for table in own.tables] == ["Probing"]
    assert len(own.plots[0][1]["panels"][0]["series"]) == len(rungs)


def test_curves_are_joined_by_what_they_have_in_common() -> None:
    plot = Plot(
        key="p",
        mark=Mark.LINE,
        title="",
        caption="",
        x=Axis(key="at", label=""),
        y=Axis(key="y", label=""),
    )
    data = plot_data(plot, [{"at": [0, 1, 2], "y": [3.0, None]}], {})
    assert data and data["panels"][0]["series"][0]["columns"] == {"y": [3.0], "x": [0.5]}
    assert plot_data(plot, [{"at": [0, 1, 2], "y": None}], {}) is None


def test_a_long_curve_is_thinned_to_means_that_keep_its_average() -> None:
    points = [(float(step), float(step % 10)) for step in range(2400)]
    assert len(thin(points, 240)) == 240
    assert {value for _, value in thin(points, 240)} == {4.5}
    assert thin([(3, 7.0)], 240) == [(3, 7.0)] and thin([], 240) == []


def test_loss_parts_of_every_kind_are_drawn_once(tmp_path: Path, page: str) -> None:
    assert {f"training-loss_{part}" for part in ("reconstruction", "sparsity", "aux_k")} <= set(
        plots_of(page)
    )
    run = write_run(tmp_path / "a_run", _few(), steps=20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["rung"]:
            line["loss"] = line["loss/reconstruction"] = line["fvu"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = set(plots_of(render(load(run))))
    assert "training-fvu" in drawn
    assert not {"training-loss", "training-loss_reconstruction"} & drawn


def test_the_page_loads_nothing(page: str) -> None:
    for tag, attributes in _Tags(without_library(page)).tags:
        assert tag not in {"img", "iframe", "object", "embed"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert "@import" not in page


def test_ids_are_unique_and_links_meet_one(page: str) -> None:
    tags = _Tags(without_library(page)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in tags if a.get("href") and tag != "link"}
    assert links <= {f"#{name}" for name in ids}


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results = load(write_run(tmp_path / "a_run", _few(), steps=20))
    path = tmp_path / "report" / "index.html"
    assert write_report(results, path) == path
    assert path.read_text() == render(results)


def test_what_was_not_measured_leaves_no_trace(tmp_path: Path) -> None:
    page = without_library(render(load(write_run(tmp_path / "a_run", _few(), steps=20))))
    for absent in ('"comparison"', '"pairs"', "#transfer", "Thresholds", "variance explained"):
        assert absent not in page
    page = without_library(
        render(load(write_run(tmp_path / "no_lm", _few(with_lm=False), steps=20)))
    )
    assert "ran without the language model" in page
    for absent in ("Delta loss against L0", "Δ loss", "recovered</button>", "clean loss"):
        assert absent not in page
    assert "FVU against L0" in page


def test_what_is_not_defined_is_a_dash_and_is_not_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", _few(), steps=20)
    for name in _few():
        path = rung_path(run, name, "coder")
        nothing = {"fvu": None, "delta_loss": None, "by_position": {"fvu": [None, None]}}
        write_figures(path, {}, (read_figures(path) or {}) | nothing)
    page = without_library(render(load(run)))
    for key in ("fvu", "delta_loss"):
        assert page.count(f'data-key="{key}" data-value="">–</td>') == 6  # two tables, and its own
    for absent in ("FVU against L0", "FVU by position", "ran without the language model"):
        assert absent not in page


def test_a_meta_sae_shows_the_variance_it_explains(tmp_path: Path) -> None:
    rungs = {"meta": made_up_rungs()["topk_4096"] | {"variance_explained": 0.5547}}
    page = render(load(write_run(tmp_path / "a_run", rungs, steps=20)))
    assert 'data-key="variance_explained" data-value="0.5547">55.47' in page


def test_a_half_of_the_files_is_drawn_without_the_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", made_up_rungs(), steps=20)
    (run / "evaluation").rename(tmp_path / "aside")
    page = render(load(run))
    assert "have not been evaluated" in page
    assert "topk_skip_16384" in page
    assert 'id="training"' in page and 'id="fidelity"' not in page
    (tmp_path / "aside").rename(run / "evaluation")
    (run / "metrics.jsonl").unlink()
    page = render(load(run))
    assert "its training is not shown" in page
    assert "FVU against width" in page


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    evil = '<b id="x">&$x^2$'
    rungs = {"only": made_up_rungs()["topk_4096"] | {"site": evil, "target": evil}}
    page = without_library(render(load(write_run(tmp_path / "a_run", rungs, steps=20))))
    assert "<b" not in page.replace("<body", "").replace("<button", "")
    assert "&lt;b id=" in page


@pytest.mark.parametrize("fvu", [0.0, 1.0, 1e-9, 12345.6])
def test_a_lone_rung_of_any_value_is_drawn(tmp_path: Path, fvu: float) -> None:
    rungs = {"only": made_up_rungs()["jumprelu_4096"] | {"fvu": fvu, "delta_loss": -0.01}}
    page = render(load(write_run(tmp_path / "a_run", rungs, steps=20)))
    assert f'data-value="{fvu}"' in page
    low, high = plots_of(page)["fvu-l0"]["panels"][0]["scales"]["y"]["domain"]
    assert low < fvu < high
