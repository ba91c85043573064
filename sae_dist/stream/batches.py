"""What every stream of activations gives out, and how it ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import torch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One rank's rows of a global batch: `acts[site]` [b, d] as stored, `index` int64 [b].

    `index` is sequence · S + position, the token's place in the store.
    """

    acts: dict[str, torch.Tensor]
    index: torch.Tensor


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
