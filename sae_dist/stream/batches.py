"""What every stream of activations is asked for, what it gives out, and how it ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import torch

from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.stream.config import StreamConfig

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


class Batches(Protocol):
    """Iterates `(Batch, StreamState)` for ever; leaving it as a context manager ends its threads.

    `waited_seconds` is the time its consumer was kept waiting.
    """

    waited_seconds: float

    def __iter__(self) -> Iterator[tuple[Batch, StreamState]]: ...

    def close(self) -> None:
        """End all threads; an iteration under way ends. Closing twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
