"""Graphs drawn without circuit-tracer's viewer."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sae_dist.common.errors import UserError
from sae_dist.handoff import draw_graph

SVG = "{http://www.w3.org/2000/svg}"


def node(name: str, layer: str, position: int, kind: str, **own: Any) -> dict[str, Any]:
    about = {"node_id": name, "layer": layer, "ctx_idx": position, "feature_type": kind}
    return about | {"feature": 7, "clerp": "", "token_prob": 0.0, "influence": None} | own


def write_graph(folder: Path) -> Path:
    """Two tokens, a latent that the second raises, another that matters less, an error, a logit."""
    latent, error = "cross layer transcoder", "mlp reconstruction error"
    nodes = [
        node("E_5_0", "E", 0, "embedding"),
        node("E_6_1", "E", 1, "embedding"),
        node("2_40_1", "2", 1, latent, influence=0.3, activation=4.5, feature=40),
        node("3_41_1", "3", 1, latent, influence=0.9, activation=0.5),
        node("0_2_1", "2", 1, error, influence=0.5),
        node("5_9_1", "5", 1, "logit", clerp='Output " <b>" (p=0.870)', token_prob=0.87),
    ]
    links = [
        {"source": "E_6_1", "target": "2_40_1", "weight": 2.0},
        {"source": "E_5_0", "target": "2_40_1", "weight": 0.02},
        {"source": "2_40_1", "target": "5_9_1", "weight": 3.0},
        {"source": "0_2_1", "target": "5_9_1", "weight": -1.0},
        {"source": "3_41_1", "target": "5_9_1", "weight": 1.0},
    ]
    told = {"metadata": {"prompt_tokens": ["<s>", " a&b"]}, "nodes": nodes, "links": links}
    (folder / "features").mkdir()
    (folder / "graph.json").write_text(json.dumps(told))
    windows = [{"tokens": ["x", word], "train_token_ind": 1} for word in (" sea", " ship", " sea")]
    about = {"examples_quantiles": [{"examples": windows}]}
    (folder / "features" / "40.json").write_text(json.dumps(about))
    return folder / "graph.json"


def test_what_matters_most_is_drawn_where_it_is(tmp_path: Path) -> None:
    found = draw_graph(write_graph(tmp_path), tmp_path / "graph.svg", latents=1)
    drawn = ElementTree.fromstring(found.read_text())
    texts = {text.text: float(text.get("y")) for text in drawn.iter(f"{SVG}text")}
    assert texts.keys() == {
        "sea",
        "error",
        "<b> 87%",
        "<s>",
        "a&b",
        *("tokens", "layer 2", "logits"),
    }
    assert texts["logits"] < texts["layer 2"] < texts["tokens"]
    edges = [(path.get("class"), path.get("stroke-width")) for path in drawn.iter(f"{SVG}path")]
    assert edges == [(None, "7.4"), (None, "4.7"), ("less", "1.9")]  # shares 0.99, 0.6 and 0.2
    titles = [title.text for title in drawn.iter(f"{SVG}title")]
    assert "latent 40, layer 2, at token 1: 4.5" in titles and len(titles) == 5
    more = draw_graph(tmp_path / "graph.json", tmp_path / "graph.svg", least_share=0.0)
    assert more.read_text().count("<path") == 5 and ">41<" in more.read_text()


def test_a_file_that_is_no_graph_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    for name in ("other.json", "missing.json"):
        with pytest.raises(UserError, match=f"found no graph in .*{name}.*create_graph_files"):
            draw_graph(tmp_path / name, tmp_path / "graph.svg")
