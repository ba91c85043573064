"""What every stream of activations is asked for, what it gives out, and how it ends."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import torch

from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.stream.config import StreamConfig
from sae_dist.stream.prefetch import Prefetch

_MIN_BUCKET_BATCHES = 64


@dataclass(frozen=True, slots=True)
class BatchPart:
    """One rank's part of every global batch, from a step on.

    Attributes:
        batch_tokens: rows of a global batch.
        seed: fixes the order, with what `config` says of it.
        config: how it is read.
        rank, world: which of how many parts, of which none has two rows more than another; all,
            side by side, are the same in every world.
        start_step: counted from the very first.
        stop_step: of the first batch that nobody will take; None: there is none.
        with_index: whether batches tell each row's place in the text; a store reads it beside them.
    """

    batch_tokens: int
    seed: int
    config: StreamConfig
    rank: int = 0
    world: int = 1
    start_step: int = 0
    stop_step: int | None = None
    with_index: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for settings that cannot work."""
        validate(self.config, "stream.")

    @property
    def rows(self) -> slice:
        """Which rows of each global batch are this part's."""
        first, stop = (r * self.batch_tokens // self.world for r in (self.rank, self.rank + 1))
        return slice(first, stop)

    def lanes_of(self, lanes: int) -> range:
        """Those of so many that this rank serves. Raises UserError if the ranks cannot share."""
        world = self.world
        if lanes % world:
            fitting = ", ".join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)
            raise UserError(
                f"found {world} ranks for {lanes} lanes; expected a number that divides them "
                f"({fitting}); start as many ranks, or change stream.lanes"
            )
        share = lanes // world
        return range(self.rank * share, (self.rank + 1) * share)

    @property
    def bucket_tokens(self) -> int:
        """Tokens that are mixed with each other."""
        return max(self.config.bucket_tokens, _MIN_BUCKET_BATCHES * self.batch_tokens)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One rank's rows of a global batch: `acts[site]` [b, d] as stored, `index` int64 [b].

    `index` is sequence · S + position, the token's place in the text; None unless asked for.
    """

    acts: dict[str, torch.Tensor]
    index: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamState:
    """Where a stream stands: number and epoch of the next batch; resuming needs `step`."""

    step: int
    epoch: int


Step = tuple[Batch, StreamState]
"""A batch, and where the stream stands after it."""


class Batches(ABC):
    """Iterates `(Batch, StreamState)` for ever, made ahead by threads.

    Iterating again after a stop goes on with the next batch. `waited_seconds` is the time the
    consumer was kept waiting. Use it as a context manager, or `close` it, to end its threads.
    """

    def __init__(self, part: BatchPart) -> None:
        self.waited_seconds = 0.0
        self._part, self._step = part, part.start_step
        self._threads: ExitStack | None = None

    @abstractmethod
    def _start(self, threads: ExitStack) -> Prefetch[Step]:
        """Begin with batch `_step`; what is left in `threads` ends all that was begun."""

    def __iter__(self) -> Iterator[Step]:
        if self._threads is not None:
            raise RuntimeError("this stream is being iterated already; close it first")
        before = self.waited_seconds
        with ExitStack() as threads:
            self._threads = threads
            threads.callback(setattr, self, "_threads", None)
            ahead = self._start(threads)
            for batch, state in ahead:
                self.waited_seconds = before + ahead.waited_seconds
                self._step = state.step
                yield batch, state

    def close(self) -> None:
        """End all threads; an iteration under way ends. Closing twice does no harm."""
        if (threads := self._threads) is not None:
            threads.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
