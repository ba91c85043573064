"""How our step's time grows with the width F, the batch B and k.

    python -m benchmarks.curves

Writes benchmarks/results/curves.json after every point, and a drawing of each curve beside it.
"""

import argparse
import datetime
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vl_convert

from benchmarks.cases import OURS, Case
from benchmarks.run import output_of, run_json
from benchmarks.table import FOLDER, update_readme
from sae_dist.report.styles import palette

_D_IN = 768
_KINDS = ("topk", "batchtopk", "jumprelu")
_SECONDS = 300
_STYLE = """<style>
svg {{ color: #1c1d21; --grid: #dcdde2; --quiet: #a3a7b0; {light} }}
@media (prefers-color-scheme: dark) {{
  svg {{ color: #e7e8ea; --grid: #343740; --quiet: #6b707b; {dark} }}
}}
</style>"""


@dataclass(frozen=True)
class Curve:
    """What varies while the rest stays: `x` is num_latents, batch or l0."""

    x: str
    label: str
    values: tuple[int, ...]
    num_latents: int = 16_384
    batch: int = 1024
    l0: int = 32

    def point(self, value: int) -> dict[str, int]:
        """num_latents, batch and l0 of one point."""
        return {"num_latents": self.num_latents, "batch": self.batch, "l0": self.l0, self.x: value}


CURVES = {
    "step-by-width": Curve("num_latents", "width F (latents)", tuple(2**n for n in range(12, 19))),
    "step-by-batch": Curve("batch", "batch B (tokens)", (256, 512, 1024, 2048, 4096, 8192)),
    "step-by-k": Curve("l0", "k (active latents a token)", (8, 16, 32, 64, 128)),
}


def measure(kind: str, point: dict[str, int], setting: str, seconds: float) -> dict[str, Any] | str:
    """Time one point in a process of its own."""
    case = Case(OURS, kind, point["num_latents"], _D_IN, point["batch"], setting)
    options = ["--l0", str(point["l0"]), "--seconds", str(seconds)]
    return run_json([sys.executable, "-W", "ignore", *case.arguments, *options], _SECONDS)


def drawing(name: str, rows: list[dict[str, Any]]) -> str:
    """One curve's SVG, in light or dark as the page is: ms against what varies, a line a kind.

    Grey and dashed: a straight line through 0 and the last point of the first kind, for the curves
    over F and B.
    """
    curve = CURVES[name]
    kinds = [kind for kind in _KINDS if any(row["kind"] == kind for row in rows)]
    points = [{"x": row[curve.x], "ms": row["ms"], "kind": row["kind"]} for row in rows]
    ticks = [v for v in curve.values if v <= max(row[curve.x] for row in rows)]
    label = "datum.value < 1024 ? datum.value : datum.value / 1024 + 'K'"
    x = {
        "field": "x",
        "type": "quantitative",
        "title": curve.label,
        "scale": {"type": "log", "nice": False},
        "axis": {"values": ticks, "labelExpr": label},
    }
    y = {"field": "ms", "type": "quantitative", "title": "step (ms)"}
    y["scale"] = {"zero": True} if curve.x == "l0" else {"type": "log", "nice": False}
    colours = [f"var(--series-{index})" for index, _ in enumerate(kinds)]
    by_kind = {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {"domain": kinds, "range": colours},
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": points},
            "mark": {"type": "line", "point": {"filled": True, "size": 60}},
            "encoding": {
                "x": x,
                "y": y,
                "color": by_kind,
                "shape": by_kind | {"scale": {"domain": kinds}},
            },
        }
    ]
    if curve.x != "l0":
        last = [point for point in points if point["kind"] == kinds[0]][-1]
        linear = [{"x": v, "ms": last["ms"] * v / last["x"]} for v in (ticks[0], last["x"])]
        mark = {"type": "line", "strokeDash": [6, 4], "color": "var(--quiet)"}
        layers.append({"data": {"values": linear}, "mark": mark, "encoding": {"x": x, "y": y}})
    line = dict.fromkeys(("domainColor", "gridColor", "tickColor"), "var(--grid)")
    text = dict.fromkeys(("labelColor", "titleColor"), "currentColor")
    config = {
        "axis": line | text,
        "legend": text,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "background": None,
    }
    spec = {"width": 340, "height": 220, "padding": 16, "layer": layers, "config": config}
    return standalone(vl_convert.vegalite_to_svg(spec))


def standalone(svg: str) -> str:
    """A drawing of the report's as a file: it brings the colours that the report's page has."""
    schemes = {}
    for scheme in ("light", "dark"):
        colours = palette(len(_KINDS), dark=scheme == "dark")
        schemes[scheme] = " ".join(f"--series-{i}: {c};" for i, c in enumerate(colours))
    end = svg.index(">") + 1
    return svg[:end] + _STYLE.format(**schemes) + svg[end:] + "\n"


def write(folder: Path, about: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write the data, the drawings of all curves that have points, and the README."""
    drawn = [name for name, own in rows.items() if len(own) > 1]
    folder.mkdir(parents=True, exist_ok=True)
    for name in drawn:
        (folder / f"{name}.svg").write_text(drawing(name, rows[name]))
    content = about | {"figures": drawn, "points": rows}
    (folder / "curves.json").write_text(json.dumps(content, indent=1) + "\n")
    update_readme()


def main() -> None:
    """Time all points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", default="float32", help="a precision")
    parser.add_argument("--seconds", type=float, default=20.0, help="to time a point's steps for")
    parser.add_argument("--most", type=int, default=2**18, help="the largest width, for a trial")
    parser.add_argument("--to", type=Path, default=FOLDER / "results", help="another folder")
    options = parser.parse_args()
    commit = output_of("git", "log", "-1", "--format=%h", "--", "sae_dist")
    failed: dict[str, str] = {}
    about = {
        "date": datetime.date.today().isoformat(),
        "versions": {"sae_dist": commit, "torch": torch.__version__},
        "d_in": _D_IN,
        "dtype": options.setting,
        "left_out": failed,
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CURVES}
    for name, curve in CURVES.items():
        for point in map(curve.point, curve.values):
            for kind in _KINDS if point["num_latents"] <= options.most else ():
                result = measure(kind, point, options.setting, options.seconds)
                if isinstance(result, str):
                    failed[f"{name} {kind} {point[curve.x]}"] = result
                else:
                    rows[name].append({"kind": kind} | point | result)
                print(f"{name} {kind} {point[curve.x]}: {result}", flush=True)
                write(options.to, about, rows)


if __name__ == "__main__":
    main()
