"""Every measure by name, in the order of the report.

Another package brings one under the entry point `sae_dist.measures`, as `NAME = "module:Class"`.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest

if TYPE_CHECKING:
    from sae_dist.evaluate.measure import Declared

_HERE = "sae_dist.evaluate.measures"
_OURS = {
    "fidelity": "Fidelity",
    "similarity": "Similarity",
    "lm_loss": "LMLoss",
    "position": "ReconstructionByPosition",
    "frequency": "FiringFrequency",
    "consistency": "ConsistentActivation",
    "coder": "Description",
    "uniformity": "Uniformity",
    "scaling": "ScalingLaws",
    "forms": "Forms",
    "novelty": "Novelty",
    "stitching": "Stitching",
    "transfer": "Transfer",
}


def names() -> list[str]:
    """Those that can be asked for; none is imported."""
    return [*_OURS, *(point.name for point in entry_points(group="sae_dist.measures"))]


@cache
def measures() -> dict[str, type["Declared"]]:
    """All of them, imported."""
    ours = {n: getattr(import_module(f"{_HERE}.{n}"), own) for n, own in _OURS.items()}
    return ours | {point.name: point.load() for point in entry_points(group="sae_dist.measures")}


def require_measure(key: str, name: str) -> None:
    """Raise UserError for a name that no measure has, with the nearest."""
    if name not in names():
        raise UserError(
            f"{key}={name}; expected measures among {', '.join(names())}{nearest(name, names())}"
        )
