"""The README's tables, made from the results, so that the two cannot disagree.

python -m benchmarks.table  # writes them into benchmarks/README.md
"""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
_BEGIN, _END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_OTHERS = ["quality", "accuracy", "storage", "startup", "curves"]  # all other files are machines


def number(value: float | None, digits: int = 0) -> str:
    """A figure for a cell; a dash where nothing was measured."""
    return "–" if value is None else f"{value:,.{digits}f}"


def table(head: str, rows: Iterable[list[str]]) -> str:
    """A Markdown table; `head` has its columns between bars."""
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"


def step_cells(step: dict[str, Any]) -> list[str]:
    """One line of the table of steps."""
    peers = step["peers"]
    best = min(peers, key=peers.get) if peers else None
    return [
        step["kind"],
        f"{step['num_latents']:,}",
        step["dtype"],
        number(step["ms"]),
        number(step["l0"]),
        f"{best}, {number(peers[best])}" if best else "–",
        number(step["ratio_to_best_peer"], 1),
        number(step["naive_ms"]),
        number(step["floor_ms"]),
        number(step["ratio_to_floor"], 1),
        number(step["peak_bytes"] / 2**30, 2),
    ]


def case_cells(case: dict[str, Any]) -> list[str]:
    """One line of the table of all timed cases."""
    cells = [case["program"], case["kind"], f"{case['num_latents']:,}", case["setting"]]
    cells += [number(case["ms"]), number(case["l0"]), str(case["num_steps"])]
    return [*cells, number(case["peak_bytes"] / 2**30, 2)]


def rates(cases: list[dict[str, Any]]) -> str:
    """The span of what the machine gave beside our own cases."""
    spans = []
    for key, unit in (("product_gflops", "GFLOP/s"), ("memory_gb_per_s", "GB/s")):
        found = [case[key] for case in cases if key in case]
        if found:
            spans.append(f"{number(min(found))}–{number(max(found))} {unit}")
    return ", ".join(spans)


def flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested figures by dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def figures(title: str, values: dict[str, Any] | None) -> str:
    """What stream or harvest measured, figure by figure."""
    if not values:
        return ""
    cells = [[key, f"{v:,.4g}" if isinstance(v, float) else str(v)] for key, v in flat(values)]
    return f"\n{title}:\n\n" + table("figure | value", cells)


def left_out(results: dict[str, Any]) -> str:
    """What gave no figure, and why."""
    lines = [f"- {case}: {why}\n" for case, why in results["left_out"].items()]
    return "\nLeft out:\n\n" + "".join(lines) if lines else ""


def versions(results: dict[str, Any]) -> str:
    """All versions in a row."""
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items())


def machine_section(path: Path) -> str:
    """All that the README says of one machine's results."""
    results = json.loads(path.read_text())
    machine = results["machine"]
    errors = [f"{error:.1e} ({name})" for name, error in machine["product_error"].items()]
    text = f"### {path.stem}\n\n{results['date']}; {machine['gpu'] or machine['processor']}, "
    text += f"{machine['threads']} threads; {versions(results)}. A product's relative RMS error: "
    text += f"{', '.join(errors)}. Rates beside our cases: {rates(results['cases'])}.\n\n"
    head = "coder | latents | dtype | ms | L0 | best peer, ms | × faster | naive torch, ms "
    head += "| floor, ms | × floor | peak GiB"
    text += table(head, map(step_cells, results["steps"]))
    text += figures("Stream", results["stream"]) + figures("Harvest", results["harvest"])
    text += "\nEvery timed case, by program:\n\n"
    head = "program | coder | latents | setting | ms | L0 | timed steps | peak GiB"
    return text + table(head, map(case_cells, results["cases"])) + left_out(results)


def trained_cells(run: dict[str, Any]) -> list[str]:
    """One line of a table of trained coders."""
    cells = [run["program"], run["kind"], run["setting"], f"{run['aim']:.3g}", str(run["seed"])]
    return [*cells, number(run["l0"], 2), number(run["fvu"], 4), number(run["seconds"])]


_TRAINED = "program | coder | setting | aim | seed | L0 | FVU | seconds"


def quality_section(results: dict[str, Any]) -> str:
    """FVU beside the peers'."""
    text = f"### Quality\n\n{results['date']}; {versions(results)}. D = {results['d_in']}, "
    text += f"{results['num_latents']:,} latents, {results['tokens']:,} tokens in batches of "
    text += f"{results['batch']:,}; {results['held_out_tokens']:,} held-out tokens.\n\n"
    rows = []
    for kind, found in results["best"].items():
        own = found.get("sae_dist", {}).get("fvu")
        for program, best in sorted(found.items(), key=lambda pair: pair[1]["fvu"]):
            ratio = best["fvu"] / own if own else None
            fvus = [number(best["fvu"], 4), number(best["spread"], 4), number(ratio, 3)]
            rows.append([kind, program, best["setting"], *fvus])
    at = f"FVU at L0 = {results['target_l0']}"
    head = f"coder | program | better setting | {at} | s.d. over seeds | ÷ sae_dist's"
    text += table(head, rows) + "\nEvery run:\n\n"
    return text + table(_TRAINED, map(trained_cells, results["runs"])) + left_out(results)


def accuracy_section(results: dict[str, Any]) -> str:
    """FVU of bfloat16 beside float32's."""
    text = f"### Accuracy\n\n{results['date']}; {versions(results)}; "
    text += f"{results['tokens']:,} tokens, {results['held_out_tokens']:,} held out.\n\n"
    rows = []
    for row in results["rows"]:
        pairs = [row[precision] for precision in ("float32", "bfloat16")]
        cells = [c for p in pairs for c in (number(p["l0"], 2), number(p["fvu"], 4))]
        rows.append([row["kind"], *cells, number(row["ratio"], 4)])
    text += table("coder | float32 L0 | FVU | bfloat16 L0 | FVU | ratio of FVU", rows)
    text += "\nEvery run:\n\n" + table(_TRAINED, map(trained_cells, results["runs"]))
    return text + left_out(results)


def storage_cells(row: dict[str, Any], exact: dict[str, Any]) -> list[str]:
    """One line of the table of formats of a store; `exact` is that of bfloat16."""
    fvu, spread = mean(row["fvu"]), stdev(row["fvu"]) if len(row["fvu"]) > 1 else None
    cells = [row["dtype"], number(row["bytes_per_token"], 1), f"{row['stored_fvu']:.2g}"]
    cells += [number(fvu, 4), number(spread, 4), number(fvu / mean(exact["fvu"]), 4)]
    rates = row["tokens_per_processor_second"], row["cold_tokens_per_second"]
    return [*cells, *(f"{rate / 1e6:.3g}M" for rate in rates)]


def storage_section(results: dict[str, Any]) -> str:
    """Bytes, FVU and reading rates of int8 beside bfloat16's."""
    rows = {row["dtype"]: row for row in results["rows"]}
    text = f"### Storage\n\n{results['date']}; {versions(results)}. D = {results['d_in']}, "
    text += f"TopK, 512 latents, {results['tokens']:,} tokens in batches of {results['batch']:,}, "
    text += f"{len(results['rows'][0]['fvu'])} seeds; "
    text += f"{results['held_out_tokens']:,} held-out tokens.\n\n"
    head = "format | bytes a token | FVU of what is stored | a coder's FVU | s.d. over seeds "
    head += "| ÷ bfloat16's | tokens read a processor second | a second, cold"
    text += table(head, (storage_cells(row, rows["bfloat16"]) for row in rows.values()))
    return text + left_out(results)


def startup_cells(call: dict[str, Any]) -> list[str]:
    """One line of the table of answers that come before any work."""
    shown = " ".join(call["arguments"])
    memory = number(call["peak_bytes"] / 2**20)
    return [f"`{shown}`", number(call["seconds"], 2), memory, call["costliest_import"]]


def startup_section(results: dict[str, Any]) -> str:
    """Processor seconds and memory of help, completion and refusals."""
    text = f"### Answers\n\n{results['date']}; {versions(results)}; {results['processor']}. "
    text += f"Medians of {results['rounds']} processes each.\n\n"
    calls = [*results["help"].values(), *results["refusal"].values(), results["completion"]]
    head = "command | processor seconds | peak MiB | costliest import"
    return text + table(head, map(startup_cells, calls)) + left_out(results)


def curves_section(results: dict[str, Any]) -> str:
    """The drawings of step time."""
    text = f"### Curves\n\n{results['date']}; {versions(results)}.\n\n"
    text += "".join(f"![{name}](results/{name}.svg)\n" for name in results["figures"])
    return text + left_out(results)


_SECTIONS = {
    "quality": quality_section,
    "accuracy": accuracy_section,
    "storage": storage_section,
    "startup": startup_section,
    "curves": curves_section,
}


def machines() -> list[Path]:
    """The results of `make bench`, by machine."""
    files = sorted((FOLDER / "results").glob("*.json"))
    return [path for path in files if path.stem not in _OTHERS]


def with_results(readme: str) -> str:
    """The README with all results in their place."""
    before, _, rest = readme.partition(_BEGIN)
    after = rest.partition(_END)[2]
    sections = [machine_section(path) for path in machines()]
    for name in _OTHERS:
        path = FOLDER / "results" / f"{name}.json"
        if path.exists():
            sections.append(_SECTIONS[name](json.loads(path.read_text())))
    return before + _BEGIN + "\n" + "\n".join(sections) + "\n" + _END + after


def update_readme() -> None:
    """Write the results into the README."""
    README.write_text(with_results(README.read_text()))


if __name__ == "__main__":
    update_readme()
