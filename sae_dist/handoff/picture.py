"""An attribution graph of circuit-tracer as a picture, where its viewer cannot load its scripts."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.handoff.circuit_tracer import FEATURES

_SLOT, _ROW, _LEFT, _EDGE = 84, 54, 64, 26  # pixels: of a node, a layer, the layers' names, around
_MOST_CHARACTERS, _ABREAST = 11, 5
_STYLE = """text { font: 11px system-ui, sans-serif; fill: #22242a; text-anchor: middle }
.layer { fill: #70747d; text-anchor: start } .token { font-weight: 600 }
.latent { fill: #2b62b8 } .error { fill: #9a9da5 } .end { fill: #22242a }
path { fill: none; stroke: #2b62b8 } .less { stroke: #c0492f }"""
_LATENT, _ERROR = "cross layer transcoder", "mlp reconstruction error"

Node = dict[str, Any]


def draw_graph(
    graph: str | Path,
    to: str | Path,
    *,
    latents: int = 40,
    errors: int = 10,
    least_share: float = 0.03,
) -> Path:
    """Draw a graph as SVG: tokens from left to right, layers from below, the logits above.

    Latents are called by the token on which their strongest examples peak, if `unpack_features` was
    there before. Edges that raise what they lead to are blue, others red, and as thick as their
    share of all that leads there.

    Args:
        graph: a file that circuit-tracer's `create_graph_files` wrote.
        to: the picture's file.
        latents, errors: so many of either are drawn, those of most influence.
        least_share: edges with less are left out.

    Returns:
        the picture's file.

    Raises:
        UserError: the file is no such graph.
    """
    graph, to = Path(graph), Path(to)
    nodes, links, tokens = _read(graph)
    kept = _of_most_influence(nodes, {_LATENT: latents, _ERROR: errors})
    places, size = _laid_out(kept)
    parts = [
        *_edges(links, places, least_share),
        *(_node(node, *places[node["node_id"]], _called(node, graph)) for node in kept),
        *_names(kept, places, tokens, size[1]),
    ]
    width, height = size
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    picture = "\n".join([head, f"<style>{_STYLE}</style>", ground, *parts, "</svg>\n"])
    write_atomic(to, picture.encode())
    return to


def _read(graph: Path) -> tuple[list[Node], list[dict[str, Any]], list[str]]:
    try:
        found = json.loads(graph.read_bytes())
        return found["nodes"], found["links"], found["metadata"]["prompt_tokens"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"found no graph in {graph} ({type(error).__name__}); expected a file that "
            "circuit-tracer's create_graph_files wrote; correct the path"
        ) from error


def _of_most_influence(nodes: list[Node], most: dict[str, int]) -> list[Node]:
    """So many of each kind; all tokens and logits. `influence` is a node's and of all before it."""
    kept = [node for node in nodes if node["feature_type"] not in most]
    for kind, number in most.items():
        own = [node for node in nodes if node["feature_type"] == kind]
        kept += sorted(own, key=lambda node: node["influence"])[:number]
    return kept


def _laid_out(nodes: list[Node]) -> tuple[dict[str, tuple[float, float]], tuple[int, int]]:
    """Where each node stands, and how large the picture is."""
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    for node in nodes:
        cells[node["ctx_idx"], _layer(node)].append(node["node_id"])
    columns = sorted({column for column, _ in cells})
    tops, bottom = {}, _EDGE
    for row in sorted({row for _, row in cells}, reverse=True):
        tops[row] = bottom
        lines = max(-(-len(own) // _ABREAST) for (_, at), own in cells.items() if at == row)
        bottom += lines * _ROW
    places, left = {}, _LEFT
    for column in columns:
        own_cells = {row: names for (at, row), names in cells.items() if at == column}
        slots = min(_ABREAST, max(map(len, own_cells.values())))
        for row, names in own_cells.items():
            for number, name in enumerate(names):
                line, place = divmod(number, _ABREAST)
                abreast = min(_ABREAST, len(names) - line * _ABREAST)
                x = left + _SLOT * (place + 0.5 + (slots - abreast) / 2)
                places[name] = (x, tops[row] + _ROW * (line + 0.5))
        left += slots * _SLOT
    return places, (left + _EDGE, bottom + _EDGE)


def _layer(node: Node) -> int:
    return -1 if node["layer"] == "E" else int(node["layer"])


def _edges(
    links: list[dict[str, Any]], places: dict[str, tuple[float, float]], least_share: float
) -> Iterator[str]:
    into: Counter[str] = Counter()
    for link in links:
        into[link["target"]] += abs(link["weight"])
    for link in links:
        share = abs(link["weight"]) / (into[link["target"]] or 1)
        if share < least_share or not {link["source"], link["target"]} <= places.keys():
            continue
        (x, y), (to_x, to_y) = places[link["source"]], places[link["target"]]
        middle = (y + to_y) / 2
        kind = "" if link["weight"] > 0 else ' class="less"'
        yield (
            f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} '
            f'{to_y:.0f}"{kind} stroke-width="{0.5 + 7 * share:.1f}" '
            f'opacity="{min(0.8, 0.15 + 2 * share):.2f}"/>'
        )


def _node(node: Node, x: float, y: float, called: str) -> str:
    kind = {_LATENT: "latent", _ERROR: "error"}.get(node["feature_type"], "end")
    told = f"layer {node['layer']}, at token {node['ctx_idx']}"
    if kind == "latent":
        told = f"latent {node['node_id'].split('_')[1]}, {told}: {node['activation']:.3g}"
    shape = f'<circle cx="{x:.0f}" cy="{y:.0f}" r="5" class="{kind}"/>'
    if kind == "error":
        shape = f'<rect x="{x - 4:.0f}" y="{y - 4:.0f}" width="8" height="8" class="{kind}"/>'
    label = f'<text x="{x:.0f}" y="{y + 18:.0f}">{escape(called)}</text>' if called else ""
    return f"<g><title>{escape(told)}</title>{shape}{label}</g>"


def _called(node: Node, graph: Path) -> str:
    if node["feature_type"] == _ERROR:
        return "error"
    if node["feature_type"] == "logit":
        token = node["clerp"].partition('"')[2].rpartition('"')[0].strip()
        return f"{_short(token)} {node['token_prob']:.0%}"
    if node["feature_type"] != _LATENT:
        return ""
    file = graph.parent / FEATURES / f"{node['feature']}.json"
    if not file.is_file():
        return node["node_id"].split("_")[1]
    quantiles = json.loads(file.read_bytes())["examples_quantiles"]
    strongest = quantiles[0]["examples"] if quantiles else []
    peaks = Counter(one["tokens"][one["train_token_ind"]].strip() for one in strongest)
    return _short(peaks.most_common(1)[0][0]) if peaks else "never fires"


def _names(
    nodes: list[Node], places: dict[str, tuple[float, float]], tokens: list[str], height: int
) -> Iterator[str]:
    """The layers at the left, and the tokens below."""
    for layer, y in {_layer(node): places[node["node_id"]][1] for node in nodes}.items():
        is_logits = any(node["feature_type"] == "logit" and _layer(node) == layer for node in nodes)
        name = "logits" if is_logits else "tokens" if layer < 0 else f"layer {layer}"
        yield f'<text x="8" y="{y + 4:.0f}" class="layer">{name}</text>'
    for node in nodes:
        if node["feature_type"] == "embedding":
            x, _ = places[node["node_id"]]
            name = escape(_short(tokens[node["ctx_idx"]].strip()))
            yield f'<text x="{x:.0f}" y="{height - _EDGE:.0f}" class="token">{name}</text>'


def _short(text: str) -> str:
    limit = _MOST_CHARACTERS
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
