"""What is asked of a judge, and the form of its answer, as it is written and read."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)  # aloud, by models that do
_NUMBER_AT_END = re.compile(r"(?:^|[\t: ])(\d+(?:\.\d+)?)\s*$")
_PREFIX = re.compile(r"^(\[?explanation\]?)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Missing:
    """In place of an answer: why there is none."""

    reason: str


class Form(Protocol):
    """What an answer looks like."""

    @property
    def num_tokens(self) -> int:
        """About how many tokens it has."""

    def write(self, answer: Any) -> str:
        """An answer as a judge is to write it."""

    def read(self, text: str) -> Any:
        """What a judge wrote; `Missing` if it is nothing of the kind."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of text."""

    num_tokens: int = 60

    def write(self, answer: str) -> str:
        """As it is."""
        return answer

    def read(self, text: str) -> str | Missing:
        """The first line that says something."""
        said = (line.strip() for line in _THOUGHT.sub("", text).splitlines())
        line = _PREFIX.sub("", next(filter(None, said), "")).strip().strip("\"'")
        return line or Missing("an empty answer")


@dataclass(frozen=True, slots=True)
class Levels:
    """A line a label, in their order: the label, a tab, and a number from 0 to `most`."""

    labels: tuple[str, ...]
    most: int = 1

    @property
    def num_tokens(self) -> int:
        """A label, a tab, a number and the line's end."""
        return 4 * len(self.labels)

    def write(self, answer: Sequence[float]) -> str:
        """Numbers with all the digits that tell them from others."""
        lines = zip(self.labels, answer, strict=True)
        return "\n".join(f"{label}\t{float(value):.17g}" for label, value in lines)

    def read(self, text: str) -> list[float] | Missing:
        """The numbers at the lines' ends; there must be one for each label."""
        found = map(_NUMBER_AT_END.search, _THOUGHT.sub("", text).splitlines())
        numbers = [float(match[1]) for match in found if match]
        if len(numbers) != len(self.labels):
            return Missing(f"{len(numbers)} numbers for {len(self.labels)} lines: {text[:80]!r}")
        if max(numbers) > self.most:
            return Missing(f"{max(numbers):g} on a scale of 0 to {self.most}")
        return numbers


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near the prompt's meaning each text's is: nothing that is written, but embeddings'."""

    texts: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Embeddings are not counted."""
        return 0

    def write(self, answer: Sequence[float]) -> str:
        """A number a text."""
        return json.dumps(list(answer))

    def read(self, text: str) -> list[float]:
        """The same."""
        return list(json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One request.

    Attributes:
        task: what is to be done, said before all else.
        demos: what was asked and answered before, for the judge to do alike.
        prompt: what is asked.
        truth: what an answer that is right would be, which `judge=oracle` alone looks at.
    """

    prompt: str
    form: Any  # a `Form`
    truth: Any
    task: str = ""
    demos: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """As a chat: in turns, without a system's role, which not every template has."""
        asked = [said for said, _ in self.demos] + [self.prompt]
        asked[0] = "\n\n".join(filter(None, (self.task, asked[0])))
        turns = [{"role": "user", "content": text} for text in asked]
        answers = [{"role": "assistant", "content": text} for _, text in self.demos]
        paired = (turn for pair in zip(turns, answers, strict=False) for turn in pair)
        return [*paired, turns[-1]]


@dataclass(slots=True)
class Usage:
    """What was asked of a judge: requests, and the tokens of what was said and answered."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __iadd__(self, other: "Usage") -> "Usage":
        self.requests += other.requests
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        return self
