"""What all runners are told, and what is noted of them.

Needs torch alone.
"""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.timing import peak_bytes

MIXED_TOKENS = 2**17  # that are mixed with each other, where a program mixes any


@dataclass
class Job:
    """What to train on what.

    Attributes:
        lm: the folder of a model and its tokenizer.
        text: a jsonl file with documents in the column `text`.
        to: a folder of its own, which is there already.
        layer: after which the residual stream is reconstructed.
        length: of a sequence.
        tokens: that pass the language model; special tokens are not trained on.
        batch: tokens of a step; of a pass, so many in whole sequences.
        num_latents, k: of the TopK coder.
        lr: of Adam: it rises in the first tenth of the steps; where a program can, it falls to 0
            in the last half.
    """

    lm: str
    text: str
    to: str
    layer: int
    length: int
    tokens: int
    batch: int
    num_latents: int
    k: int
    lr: float

    @property
    def folder(self) -> Path:
        """`to`, as a path."""
        return Path(self.to)

    @property
    def batch_sequences(self) -> int:
        """Sequences of a pass through the language model."""
        return self.batch // self.length

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self.tokens // self.batch

    @property
    def warmup_steps(self) -> int:
        """In which the rate rises."""
        return self.num_steps // 10


class Phases(Counter[str]):
    """Seconds by phase; what is timed within what is timed counts twice."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time within."""
        begin = time.perf_counter()
        yield
        self[name] += time.perf_counter() - begin

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts."""

        @wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            with self(name):
                return function(*given, **named)

        return called


def run_program(program: str, job: dict[str, Any]) -> dict[str, Any]:
    """Let `benchmarks.runners.PROGRAM` do a job.

    `PROGRAM` is `module:function`, which returns the folder of the coder that it wrote.

    Returns:
        that folder, seconds by phase as far as the program allows, and the peak of memory.
    """
    module, _, name = program.partition(":")
    phases = Phases()
    function = getattr(importlib.import_module(f"benchmarks.runners.{module}"), name)
    folder = function(Job(**job), phases)
    return {"coder": str(folder), "phases": dict(phases), "peak_bytes": peak_bytes()}
