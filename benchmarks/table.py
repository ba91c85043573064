"""The README's table, made from the results, so that the two cannot disagree.

python -m benchmarks.table    writes it into benchmarks/README.md
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
_BEGIN, _END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_HEAD = (
    "| coder | latents | matmul | ms | L0 | best peer, ms | × faster | naive torch, ms "
    "| floor, ms | × floor | peak GiB |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def number(value: float | None, digits: int = 0) -> str:
    """A figure for a cell; a dash where nothing was measured."""
    return "–" if value is None else f"{value:,.{digits}f}"


def row(step: dict[str, Any]) -> str:
    """One line of the table."""
    peers = step["peers"]
    best = min(peers, key=peers.get) if peers else None
    cells = [
        step["kind"],
        f"{step['num_latents']:,}",
        step["matmul"],
        number(step["ms"]),
        number(step["l0"]),
        f"{best}, {number(peers[best])}" if best else "–",
        number(step["ratio_to_best_peer"], 1),
        number(step["naive_ms"]),
        number(step["floor_ms"]),
        number(step["ratio_to_floor"], 1),
        number(step["peak_bytes"] / 2**30, 2),
    ]
    return "| " + " | ".join(cells) + " |\n"


def section(path: Path) -> str:
    """All that the README says of one machine's results."""
    results = json.loads(path.read_text())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    machine = results["machine"]
    errors = [f"{error:.1e} ({name})" for name, error in machine["product_error"].items()]
    text = f"### {path.stem}\n\n{results['date']}; {machine['gpu'] or machine['processor']}, "
    text += f"{machine['threads']} threads; {versions}. A product's relative RMS error: "
    text += f"{', '.join(errors)}.\n\n{_HEAD}"
    text += "".join(row(step) for step in results["steps"])
    text += "\nEvery timed case, by program:\n\n"
    text += "| program | coder | latents | setting | ms | L0 | timed steps | peak GiB |\n"
    text += "|---|---|---|---|---|---|---|---|\n"
    for case in results["cases"]:
        cells = [case["program"], case["kind"], f"{case['num_latents']:,}", case["setting"]]
        cells += [number(case["ms"]), number(case["l0"]), str(case["num_steps"])]
        cells += [number(case["peak_bytes"] / 2**30, 2)]
        text += "| " + " | ".join(cells) + " |\n"
    if results["left_out"]:
        text += "\nLeft out:\n\n"
        text += "".join(f"- {case}: {why}\n" for case, why in results["left_out"].items())
    return text


def with_results(readme: str) -> str:
    """The README with the results of all machines in their place."""
    before, _, rest = readme.partition(_BEGIN)
    after = rest.partition(_END)[2]
    sections = [section(path) for path in sorted((FOLDER / "results").glob("*.json"))]
    return before + _BEGIN + "\n" + "\n".join(sections) + "\n" + _END + after


if __name__ == "__main__":
    README.write_text(with_results(README.read_text()))
