"""Judges whose scores are known beforehand: they prove the way from windows to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sae_dist.common.seeds import generator
from sae_dist.common.settings import setting
from sae_dist.explain.judges.judge import Judge, JudgeConfig
from sae_dist.explain.questions import Levels, Question, Sentence, Usage


@dataclass(kw_only=True)
class Oracle(JudgeConfig):
    """Knows the truth: each score is 1."""

    name: str = field(default="oracle", init=False)

    def open(self) -> Judge:
        return _Known(lambda question: question.truth)


@dataclass(kw_only=True)
class Constant(JudgeConfig):
    """Says that every latent is always fully active.

    Balanced accuracies and AUROC are 1/2, and a correlation is undefined.
    """

    name: str = field(default="constant", init=False)

    def open(self) -> Judge:
        return _Known(self._answer)

    @staticmethod
    def _answer(question: Question) -> Any:
        if isinstance(question.form, Sentence):
            return "everything"
        return [getattr(question.form, "most", 1)] * len(question.truth)


@dataclass(kw_only=True)
class Random(JudgeConfig):
    """Guesses, the same of the same question.

    Balanced accuracies and AUROC are about 1/2, correlations about 0.
    """

    name: str = field(default="random", init=False)
    seed: int = setting(0, min=0)

    def open(self) -> Judge:
        return _Known(self._answer)

    def _answer(self, question: Question) -> Any:
        rng = generator(self.seed, *(turn["content"] for turn in question.messages()))
        match question.form:
            case Sentence():
                return f"number {rng.integers(1000)}"
            case Levels(labels=labels, most=most):
                return rng.integers(0, most + 1, len(labels)).tolist()
        return rng.random(len(question.truth)).tolist()


class _Known(Judge):
    """Writes its answers and reads them again, as others' are read."""

    def __init__(self, answer: Callable[[Question], Any]) -> None:
        self._answer, self.spent = answer, Usage()

    def answers(self, questions: Iterable[Question]) -> Iterator[Any]:
        for question in questions:
            self.spent += Usage(requests=1)
            yield question.form.read(question.form.write(self._answer(question)))
