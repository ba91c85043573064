import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sae_dist.report import RunResults, load, write_report
from sae_dist.report.page import render
from tests.report.made_up import made_up_rungs, write_run

SHOWN = (
    "num_latents k l0 fvu delta_loss ce_increase_percent loss_recovered zero_ablation_loss "
    "dead_share cosine_similarity"
).split()
TOPICS = (
    "overview fidelity position latents scaling comparison pairs transfer training throughput "
    "configuration"
).split()


@pytest.fixture
def results(whole_run: Path) -> RunResults:
    return load(whole_run)


@pytest.fixture
def page(whole_run: Path) -> str:
    return (whole_run / "report" / "index.html").read_text()


class _Tags(HTMLParser):
    """Every tag and attribute of a page; open tags must close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _few() -> dict[str, dict[str, Any]]:
    return {name: made_up_rungs()[name] for name in ("topk_4096", "topk_16384")}


def test_every_measure_of_every_rung_is_on_the_page(results: RunResults, page: str) -> None:
    for rung in results.rungs:
        for key in SHOWN:
            value = rung.figures[key]
            assert f'data-value="{"" if value is None else value}"' in page
        assert f"{rung.figures['firing_frequency']['never']:,} of" in page
    assert "3.812 nats a token" in page
    assert "262,144 of 2,048 sequences" in page


def test_every_topic_and_rung_has_a_part_and_a_link(results: RunResults, page: str) -> None:
    for key in [*TOPICS, *(f"rung-{rung.name}" for rung in results.rungs)]:
        assert re.search(f'<section class="page[^"]*" id="{re.escape(key)}">', page)
        assert f'href="#{key}"' in page


def test_every_figure_has_axes_and_a_caption(page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    for figure in figures:
        assert re.search(r"<figcaption>\S", figure)
        for drawing in re.findall(r"<svg.*?</svg>", figure, flags=re.DOTALL):
            assert 'id="' in drawing
            assert drawing.count("</text>") > 3
    for source in ("fig. 3", "figs. 2 and 4", "fig. 5", "fig. 15", "fig. 16", "figs. 7 and 8"):
        assert f"{source}" in "".join(figures)
    for part in ("reconstruction", "sparsity", "aux_k"):
        assert f"Loss part: {part}" in page


def test_the_page_loads_nothing(page: str) -> None:
    assert "http" not in page
    assert "@import" not in page
    for tag, attributes in _Tags(page).tags:
        assert tag not in {"img", "iframe", "object", "embed"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
        assert not re.search(r"url\((?!#)", attributes.get("style") or "")


def test_ids_are_unique_and_references_meet_one(page: str) -> None:
    tags = _Tags(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {a["href"] for tag, a in tags if a.get("href") and tag != "link"}
    clips = set(re.findall(r"url\((#[^)]*)\)", page))
    assert references | clips <= {f"#{name}" for name in ids}


def test_svg_keeps_text_as_text_and_colours_come_from_the_page(page: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "log₁₀ firing frequency</text>" in drawings
    assert "var(--series-2)" in drawings
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) <= {"#000000", "#ffffff"}


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results = load(write_run(tmp_path / "a_run", _few(), steps=20))
    path = tmp_path / "report" / "index.html"
    assert write_report(results, path) == path
    assert path.read_text() == render(results)


def test_what_was_not_measured_leaves_no_trace(tmp_path: Path) -> None:
    page = render(load(write_run(tmp_path / "a_run", _few(), steps=20)))
    for topic in ("scaling", "comparison", "pairs", "transfer"):
        assert f'"{topic}"' not in page
        assert f"#{topic}" not in page
    assert "Thresholds" not in page
    assert "variance explained" not in page


def test_what_is_not_defined_is_a_dash_and_is_not_drawn(tmp_path: Path) -> None:
    nothing = {"fvu": None, "delta_loss": None, "by_position": {"fvu": [None, None]}}
    run = write_run(tmp_path / "a_run", _few(), steps=20)
    evaluation = json.loads((run / "evaluation.json").read_text())
    for rung in evaluation["rungs"].values():
        rung |= nothing
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = render(load(run))
    for key in ("fvu", "delta_loss"):
        assert page.count(f'data-key="{key}" data-value="">–</td>') == 6  # two tables, and its own
    for absent in ("FVU against L0", "FVU by position", "ran without the language model"):
        assert absent not in page


def test_a_loss_is_drawn_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", _few(), steps=20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["rung"]:
            line["loss"] = line["loss/reconstruction"] = line["fvu"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render(load(run))
    assert 'id="training-fvu-0-' in page
    assert 'id="training-loss' not in page.replace("training-loss-aux_k", "")


def test_a_meta_sae_shows_the_variance_it_explains(tmp_path: Path) -> None:
    rungs = {"meta": made_up_rungs()["topk_4096"] | {"variance_explained": 0.5547}}
    page = render(load(write_run(tmp_path / "a_run", rungs, steps=20)))
    assert 'data-key="variance_explained" data-value="0.5547">55.47' in page


def test_without_a_language_model_its_measures_are_left_out(tmp_path: Path) -> None:
    rungs = {name: made_up_rungs(with_lm=False)[name] for name in _few()}
    page = render(load(write_run(tmp_path / "a_run", rungs, steps=20)))
    assert "ran without the language model" in page
    for absent in ("Delta loss against L0", "Δ loss", "recovered</button>", "clean loss"):
        assert absent not in page
    assert "FVU against L0" in page


def test_without_an_evaluation_the_training_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", made_up_rungs(), steps=20)
    (run / "evaluation.json").unlink()
    page = render(load(run))
    assert "have not been evaluated" in page
    assert "topk_skip_16384" in page
    assert 'id="training"' in page
    assert 'id="fidelity"' not in page


def test_without_metrics_the_evaluation_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", _few(), steps=20)
    (run / "metrics.jsonl").unlink()
    page = render(load(run))
    assert "its training is not shown" in page
    assert "FVU against width" in page


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    evil = '<b id="x">&$x^2$'
    rungs = {evil: made_up_rungs()["topk_4096"] | {"site": evil, "target": evil}}
    run = write_run(tmp_path / "a_run", rungs, steps=20)
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"run": evil}))
    page = render(load(run))
    assert "<b" not in page.replace("<body", "").replace("<button", "")
    assert "&lt;b id=" in page


@pytest.mark.parametrize("fvu", [0.0, 1.0, 1e-9, 12345.6])
def test_a_lone_rung_of_any_value_is_drawn(tmp_path: Path, fvu: float) -> None:
    rungs = {"only": made_up_rungs()["jumprelu_4096"] | {"fvu": fvu, "delta_loss": -0.01}}
    page = render(load(write_run(tmp_path / "a_run", rungs, steps=20)))
    assert f'data-value="{fvu}"' in page
