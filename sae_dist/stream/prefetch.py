"""An iterator that runs ahead of its consumer in a thread of its own."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates over `items` in one thread, at most `depth` items ahead.

    An exception of `items` is raised in the consumer, as often as it asks. `close` ends the thread.
    `waited_seconds` adds up the time the consumer was kept.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self.waited_seconds = 0.0
        self._items, self._closing = items, False
        self._thread = ThreadPoolExecutor(1, "sae-ahead")
        self._coming = deque(self._thread.submit(next, items) for _ in range(depth))

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._closing:
            raise StopIteration
        begun = time.perf_counter()
        try:
            item = self._coming[0].result()
        except BaseException:
            if self._closing:
                raise StopIteration from None
            raise
        self.waited_seconds += time.perf_counter() - begun
        self._coming.popleft()
        with suppress(RuntimeError):  # closed meanwhile
            self._coming.append(self._thread.submit(next, self._items))
        return item

    def close(self, wake: Callable[[], object] = lambda: None) -> None:
        """End the thread and wait for it; a consumer still waiting gets StopIteration.

        `wake` ends what `items` may be waiting for, by an exception there.
        """
        self._closing = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        wake()
        self._thread.shutdown()
