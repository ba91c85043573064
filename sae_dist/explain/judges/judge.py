"""What explains and judges: its settings, how it is asked, and all judges by name.

Another package brings one under the entry point `sae_dist.judges`, as `NAME = "module:Class"`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_dist.common.registry import Registry

if TYPE_CHECKING:
    from sae_dist.explain.questions import Question, Usage


class Judge(ABC):
    """Answers questions.

    Attributes:
        spent: what it was asked so far.
        scale: the end of the scale on which it says how active a latent is.
    """

    spent: Usage
    scale: int = 10

    @abstractmethod
    def answers(self, questions: Iterable[Question]) -> Iterator[Any]:
        """What the form of each question reads, or `Missing`, in their order.

        Questions are taken some way ahead of the answers, and no more once the iterator is closed.

        Raises:
            UserError: it cannot be asked any more.
        """


@dataclass(kw_only=True)
class JudgeConfig:
    """Who explains and judges (`judge=NAME` chooses)."""

    name: str = field(default="", init=False)

    @property
    def who(self) -> str:
        """What a score depends on: its name, and which model."""
        return self.name

    def check(self, scorers: Iterable[str]) -> None:
        """Raise UserError for what can be refused before anything is loaded."""

    def open(self) -> Judge:
        """Make ready to answer.

        Raises:
            UserError: something that it needs is not there.
        """
        raise NotImplementedError

    def dollars(self, usage: Usage) -> float | None:
        """What that costs; None where nobody said."""
        return 0.0


_HERE = "sae_dist.explain.judges"
JUDGES = Registry(
    "judge",
    JudgeConfig,
    key="name",
    group="sae_dist.judges",
    ours={
        "openai": f"{_HERE}.endpoint:Endpoint",
        "local": f"{_HERE}.local:Local",
        "oracle": f"{_HERE}.known:Oracle",
        "constant": f"{_HERE}.known:Constant",
        "random": f"{_HERE}.known:Random",
    },
)
