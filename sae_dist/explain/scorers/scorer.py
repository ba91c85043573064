"""What a scorer is, and all of them by name.

Another package brings one under the entry point `sae_dist.scorers`, as `NAME = "module:Class"`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sae_dist.common.registry import Registry

if TYPE_CHECKING:
    from sae_dist.explain.examples import Sample
    from sae_dist.explain.questions import Question


class Scorer(ABC):
    """Asks what an explanation lets a judge foresee, and compares it with what is.

    Attributes:
        heading, definition, source: of its figure.
        of_peaks: whether it scores an explanation of its own, made of `Sample.peaks`.

    Args:
        shown: how many texts are judged in one request.
        scale: the end of the scale on which the judge says how active a latent is.
    """

    name: ClassVar[str]
    heading: ClassVar[str]
    definition: ClassVar[str]
    source: ClassVar[str]
    of_peaks: ClassVar[bool] = False

    def __init__(self, shown: int = 5, scale: int = 10) -> None:
        self.shown, self.scale = shown, scale

    @abstractmethod
    def questions(self, sample: Sample, explanation: str) -> list[Question]:
        """What the judge is asked, one or more questions."""

    @abstractmethod
    def score(
        self, sample: Sample, questions: Sequence[Question], answers: Sequence[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        """The score (None where it is undefined), and whatever else was counted.

        Args:
            questions: those above.
            answers: of each what its form reads, or `Missing`.
        """


_HERE = "sae_dist.explain.scorers"
SCORERS = Registry(
    "scorer",
    Scorer,  # type: ignore[type-abstract]
    key="name",
    group="sae_dist.scorers",
    ours={
        "detection": f"{_HERE}.detection:Detection",
        "fuzzing": f"{_HERE}.fuzzing:Fuzzing",
        "simulation": f"{_HERE}.simulation:Simulation",
        "embedding": f"{_HERE}.embedding:Embedding",
        "autointerp": f"{_HERE}.autointerp:AutoInterp",
    },
)
scorer_names = SCORERS.names
