"""How our step's time grows with the width F, the batch B and k.

    python -m benchmarks.curves

Writes benchmarks/results/curves.json after every point, and a drawing of each curve beside it.
"""

import argparse
import datetime
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from benchmarks.cases import OURS, Case
from benchmarks.run import output_of, run_json
from benchmarks.table import FOLDER, update_readme
from sae_dist.report.styles import palette, width_label
from sae_dist.report.svg import QUIET, draw, scale, series_colour, set_ticks

_D_IN = 768
_KINDS = {"topk": "o", "batchtopk": "s", "jumprelu": "^"}
_SECONDS = 300
_STYLE = """<style>
svg {{ color: #1c1d21; --grid: #dcdde2; --quiet: #a3a7b0; --sans: system-ui, sans-serif; {light} }}
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
    lines = {kind: [r for r in rows if r["kind"] == kind] for kind in _KINDS}
    lines = {kind: own for kind, own in lines.items() if own}

    def paint(ax: Axes) -> None:
        xs = sorted({row[curve.x] for row in rows})
        if curve.x != "l0":
            last = next(iter(lines.values()))[-1]
            linear = [last["ms"] * x / last[curve.x] for x in xs]
            ax.plot(xs, linear, color=QUIET, linestyle="--", label="linear")
        for index, (kind, own) in enumerate(lines.items()):
            points = [r[curve.x] for r in own], [r["ms"] for r in own]
            ax.plot(*points, color=series_colour(index), marker=_KINDS[kind], label=kind)
        scale(ax, "x", xs)
        scale(ax, "y", [row["ms"] for row in rows] + ([0.0] if curve.x == "l0" else []))
        asked = [value for value in curve.values if value <= xs[-1]]  # a JumpReLU's l0 is near it
        set_ticks(ax, "x", FixedLocator(asked), lambda x: width_label(int(x)))
        ax.set(xlabel=curve.label, ylabel="step (ms)")
        ax.legend(frameon=False, fontsize=9, labelcolor="linecolor")

    return standalone(draw(name, paint))


def standalone(svg: str) -> str:
    """A drawing of the report's as a file: it brings the colours that the report's page has."""
    schemes = {}
    for scheme in ("light", "dark"):
        colours = palette(len(_KINDS), dark=scheme == "dark")
        schemes[scheme] = " ".join(f"--series-{i}: {c};" for i, c in enumerate(colours))
    namespaces = 'xmlns="http://www.w3.org/2000/svg"'
    opening = re.sub(r"^<svg", f"<svg {namespaces}", svg[: svg.index(">") + 1])
    return opening + _STYLE.format(**schemes) + svg[svg.index(">") + 1 :] + "\n"


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
