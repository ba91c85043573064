"""Put published claims beside what evaluated runs show, as tables in a document.

    python -m examples.reproduce runs/reproduce docs/reproduction.md seed-0 seed-1 seed-2

The runs are one ladder trained with several seeds; figures are means over them, with the standard
deviation. The tables replace what stands between the document's two markers. `run.sh`, which
`make reproduce` starts, ends with this.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.machine import circumstances
from examples.reproduce.claims import CLAIMS
from examples.reproduce.tables import Circumstances, render, replace_part
from examples.reproduce.verdict import summarise
from sae_dist.apps.terminal import ended_in_one_line
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_atomic
from sae_dist.common.log import log_info
from sae_dist.evaluate import read_evaluation

_LM = (
    "{num_parameters:,} parameters, trained on {num_tokens:,} tokens; {held_out_loss:.3f} nats a "
    "held-out token ({loss_before:.3f} before training, {unigram_loss:.3f} without context)"
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="of runs, lm/, finetuned/ and commands.tsv")
    parser.add_argument("document", type=Path)
    parser.add_argument("runs", nargs="+", help="those that differ in their seed alone")
    asked = parser.parse_args()
    with ended_in_one_line():
        fill_in(asked.document, asked.home, asked.runs)


def fill_in(document: Path, home: Path, runs: list[str]) -> None:
    """Read the runs' evaluations, and write the tables into the document."""
    evaluations = [_evaluation(home / name) for name in runs]
    if not document.is_file():
        raise UserError(f"found no {document}; expected the document to fill in; restore it")
    commands = _commands(home / "commands.tsv")
    facts = _about_now() | _about_lms(home) | _about_runs(evaluations)
    facts["time"] = f"{sum(seconds for _, seconds in commands) / 60:.1f} minutes for all commands"
    part = render(CLAIMS, evaluations, Circumstances(facts, commands))
    write_atomic(document, replace_part(document.read_text(), part).encode())
    for claim in CLAIMS:
        log_info(f"  {claim.title}: {summarise(claim.over(evaluations))}")
    log_info(f"tables in {document}")


def _evaluation(run: Path) -> dict[str, Any]:
    if (found := read_evaluation(run)) is None:
        raise UserError(
            f"found no evaluation in {run}; expected an evaluated run; run sae-dist evaluate first"
        )
    return found


def _about_now() -> dict[str, str]:
    now = circumstances("torch", "transformers", "numpy")
    versions = ", ".join(f"{name} {version}" for name, version in now["versions"].items())
    machine = f"{now['threads']} threads of {now['processor']}"
    return {
        "date": now["date"],
        "machine": ", ".join(filter(None, [machine, now["gpu"]])),
        "versions": f"sae_dist {now['commit']}, {versions}",
    }


def _about_lms(home: Path) -> dict[str, str]:
    """What the language models' reports say, as far as there are any."""
    facts = {}
    for name, what in (("lm", "language model"), ("finetuned", "its finetune")):
        path = home / name / "training.json"
        if path.is_file():
            facts[what] = _LM.format_map(read_json(path))
    return facts


def _about_runs(evaluations: list[dict[str, Any]]) -> dict[str, str]:
    first = evaluations[0]
    names = ", ".join(str(evaluation.get("run")) for evaluation in evaluations)
    return {
        "runs": f"{len(evaluations)} seeds ({names}) of {len(first['rungs'])} coders each, "
        f"measured on {first['tokens']:,} held-out tokens"
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
