"""Put published claims beside what evaluated runs show, as tables in a document.

    python -m examples.reproduce small runs/reproduce docs/reproduction.md \
        --results examples/reproduce/results seed-0 seed-1 seed-2

The runs are one ladder trained with several seeds, of which those are taken that are evaluated by
now; figures are means over them, with the standard deviation. They are kept as
`RESULTS/small.json`, and the tables of all language models there replace what stands between the
document's two markers. `run.sh`, which `make reproduce` starts, does this after each seed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.machine import circumstances
from examples.reproduce.claims import CLAIMS
from examples.reproduce.records import Record, read_record, write_record
from examples.reproduce.tables import render, replace_part
from examples.reproduce.verdict import summarise
from sae_dist.apps.terminal import ended_in_one_line
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_atomic
from sae_dist.common.log import log_info
from sae_dist.evaluate import read_evaluation

LMS = {"small": "small LM", "real": "SmolLM2-135M"}
_TRAINED = (
    "{num_parameters:,} parameters, trained on {num_tokens:,} tokens; {held_out_loss:.3f} nats a "
    "held-out token ({loss_before:.3f} before training, {unigram_loss:.3f} without context)"
)
_LAST = "forms"  # of the measures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lm", choices=LMS)
    parser.add_argument("home", type=Path, help="of runs, lm/, finetuned/ and commands.tsv")
    parser.add_argument("document", type=Path)
    parser.add_argument("runs", nargs="+", help="those that differ in their seed alone")
    parser.add_argument("--results", type=Path, required=True, help="a file a language model")
    asked = parser.parse_args()
    with ended_in_one_line():
        write_record(asked.results / f"{asked.lm}.json", found_in(asked.home, asked.runs))
        fill_in(asked.document, asked.results)


def found_in(home: Path, runs: list[str]) -> Record:
    """What the evaluations of some runs say together.

    Raises:
        UserError: none of them is evaluated.
    """
    named = {name: read_evaluation(home / name) for name in runs}
    done = {n: found for n, found in named.items() if found and _LAST in found["of_run"]}
    if not done:
        raise UserError(
            f"found no evaluation in {', '.join(str(home / name) for name in runs)}; expected an "
            "evaluated run; run sae-dist evaluate first"
        )
    commands = _commands(home / "commands.tsv")
    evaluations = list(done.values())
    facts = _about_now() | _about_lms(home, evaluations[0]) | _about_runs(done)
    facts["time"] = f"{sum(seconds for _, seconds in commands) / 60:.1f} minutes for all commands"
    effects = {claim.title: claim.over(evaluations) for claim in CLAIMS}
    for title, found in effects.items():
        log_info(f"  {title}: {summarise(found)}")
    return Record(facts, commands, effects)


def fill_in(document: Path, results: Path) -> None:
    """Write the tables of all language models into the document."""
    if not document.is_file():
        raise UserError(f"found no {document}; expected the document to fill in; restore it")
    records = {name: read_record(results / f"{lm}.json") for lm, name in LMS.items()}
    part = render(CLAIMS, records)
    write_atomic(document, replace_part(document.read_text(), part).encode())
    log_info(f"tables in {document}")


def _about_now() -> dict[str, str]:
    now = circumstances("torch", "transformers", "numpy")
    versions = ", ".join(f"{name} {version}" for name, version in now["versions"].items())
    machine = f"{os.cpu_count()} cores of {now['processor']}"
    return {
        "date": now["date"],
        "machine": ", ".join(filter(None, [machine, *now["units"], now["gpu"]])),
        "versions": f"sae_dist {now['commit']}, {versions}",
    }


def _about_lms(home: Path, evaluation: dict[str, Any]) -> dict[str, str]:
    """What is known of the language model, and of those that were trained here."""
    used = evaluation.get("lm") or {}
    facts = {"language model": f"{used.get('name')}, {used.get('dtype')}"}
    for name, what in (("lm", "language model"), ("finetuned", "its finetune")):
        path = home / name / "training.json"
        if path.is_file():
            facts[what] = _TRAINED.format_map(read_json(path))
    return facts


def _about_runs(done: dict[str, dict[str, Any]]) -> dict[str, str]:
    first = next(iter(done.values()))
    return {
        "runs": f"{len(done)} {'seed' if len(done) == 1 else 'seeds'} ({', '.join(done)}) of "
        f"{len(first['rungs'])} coders each, measured on {first['tokens']:,} held-out tokens"
    }


def _commands(path: Path) -> list[tuple[str, float]]:
    """Each command once, with the seconds of all its starts."""
    seconds: dict[str, float] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        taken, _, command = line.partition("\t")
        seconds[command] = seconds.get(command, 0.0) + float(taken)
    return list(seconds.items())


if __name__ == "__main__":
    main()
