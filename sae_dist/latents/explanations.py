"""What somebody says that latents fire on, and how well that holds: a file a latent.

runs/r/latents/RUNG/explanations/LATENT.json
"""

from pathlib import Path
from typing import Any

import msgspec

from sae_dist.common.files import write_json
from sae_dist.latents.folder import FOLDER

EXPLANATIONS = "explanations"


class Explanation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One latent's explanation.

    Attributes:
        explainer, judge: who wrote it and who judged it: kind and model.
        scores: by scorer (`detection`, `fuzzing`, `simulation`, …) its figure; None where it is
            undefined.
        of: the coder's fingerprint and the settings: another explanation is written anew.
        details: by scorer whatever else it counted.
    """

    latent: int
    text: str
    explainer: str
    judge: str
    scores: dict[str, float | None]
    of: dict[str, Any]
    details: dict[str, dict[str, Any]] = {}


def write_explanation(run: Path, rung: str, explanation: Explanation) -> None:
    """Write it whole or not at all."""
    folder = run / FOLDER / rung / EXPLANATIONS
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{explanation.latent:07d}.json", msgspec.to_builtins(explanation))


def read_explanations(run: Path, rung: str) -> dict[int, Explanation]:
    """All of a rung's, by latent; empty where there are none."""
    files = sorted((run / FOLDER / rung / EXPLANATIONS).glob("*.json"))
    found = (msgspec.json.decode(file.read_bytes(), type=Explanation) for file in files)
    return {one.latent: one for one in found}
