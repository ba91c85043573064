"""Put several evaluated runs side by side: seeds of one ladder, or a ladder trained in parts.

    sae-dist compare "run=[seed0,seed1,seed2]" to=runs/seeds

Writes `comparison.json` in the folder `to`: mean and spread of rungs that differ only in their
seed, and scaling laws and the comparison of forms over the rungs of all runs. (Pairs of coders of
several runs are for `evaluate "run=[a,b]"`.)
"""

from pathlib import Path
from typing import Any

from sae_dist.apps.command import command, entry
from sae_dist.apps.runs import finished_run
from sae_dist.common.errors import UserError
from sae_dist.common.figures import shown
from sae_dist.common.files import write_json
from sae_dist.common.log import log_info
from sae_dist.config import CompareConfig
from sae_dist.evaluate import read_evaluation
from sae_dist.evaluate.several_runs import EvaluatedRun, compare_runs


@command
def compare(config: CompareConfig) -> dict[str, Any]:
    """Read the runs' evaluations and write what they say together."""
    results = compare_runs([_evaluated(config.runs, name) for name in config.run])
    folder = Path(config.to)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", results)
    for name, rung in results["rungs"].items():
        l0, fvu = (_line(rung.get(key)) for key in ("l0", "fvu"))
        log_info(f"  {name} ({len(rung['runs'])}): L0 {l0}, FVU {fvu}")
    log_info(f"figures in {folder / 'comparison.json'}")
    return results


def _evaluated(runs: str, name: str) -> EvaluatedRun:
    folder, settings = finished_run(runs, name)
    evaluation = read_evaluation(folder)
    if evaluation is None:
        raise UserError(
            f"found nothing measured in {folder}; expected an evaluated run; run "
            "sae-dist evaluate first"
        )
    own = settings or {"imported": name}  # coders from elsewhere are no seeds of each other
    return EvaluatedRun(name=name, settings=own, evaluation=evaluation)


def _line(figure: dict[str, Any] | None) -> str:
    if figure is None:  # undefined in one of the runs
        return shown(None, "")
    spread = "" if figure["std"] is None else f" ± {figure['std']:.2g}"
    return f"{figure['mean']:.4g}{spread}"


main = entry("compare")
