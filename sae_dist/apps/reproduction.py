"""Put published claims beside what evaluated runs show, as tables in a document.

    python launch/reproduction.py run=[seed0,seed1,seed2] document=docs/reproduction.md

The runs are one ladder trained with several seeds; figures are means over them, with the standard
deviation. The tables replace what stands between the document's two markers. `make reproduce` ends
with this.
"""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import sae_dist
from sae_dist.apps import command
from sae_dist.apps.runs import run_folder
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_atomic
from sae_dist.common.log import log_info
from sae_dist.config import ReproductionConfig
from sae_dist.evaluate import read_evaluation
from sae_dist.reproduce.claims import CLAIMS
from sae_dist.reproduce.document import Circumstances, render, replace_part
from sae_dist.reproduce.verdict import summarise

_LM = (
    "{num_parameters:,} parameters, trained on {num_tokens:,} tokens; {held_out_loss:.3f} nats a "
    "held-out token ({loss_before:.3f} before training, {unigram_loss:.3f} without context)"
)


def main() -> None:
    """The command."""
    command.run("reproduction")


def reproduction_command(config: ReproductionConfig) -> None:
    """Read the runs' evaluations, and write the tables into the document."""
    evaluations = [_evaluation(config.runs, name) for name in config.run]
    document = Path(config.document)
    if not document.is_file():
        raise UserError(f"found no {document}; expected the document to fill in; restore it")
    commands = _commands(Path(config.home) / "commands.tsv")
    facts = _about_now() | _about_lms(Path(config.home)) | _about_runs(evaluations)
    facts["time"] = f"{sum(seconds for _, seconds in commands) / 60:.1f} minutes for all commands"
    circumstances = Circumstances(facts, commands)
    part = render(CLAIMS, evaluations, circumstances)
    write_atomic(document, replace_part(document.read_text(), part).encode())
    for claim in CLAIMS:
        log_info(f"  {claim.title}: {summarise(claim.over(evaluations))}")
    log_info(f"tables in {document}")


def _evaluation(runs: str, name: str) -> dict[str, Any]:
    folder = run_folder(runs, name)
    if (found := read_evaluation(folder)) is None:
        raise UserError(
            f"found no evaluation in {folder}; expected an evaluated run; run launch/evaluate.py "
            "first"
        )
    return found


def _about_now() -> dict[str, str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": _machine(),
        "versions": f"sae_dist {sae_dist.__version__} ({_commit()}), "
        f"Python {platform.python_version()}, {packages}",
    }


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{cores} cores of {_processor()}"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(parts)


def _processor() -> str:
    """What the kernel calls it, where it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """Of the checkout, with a mark if there are changes."""
    place = Path(sae_dist.__file__).parent
    command = ("git", "describe", "--always", "--dirty", "--exclude=*")
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no checkout"


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
