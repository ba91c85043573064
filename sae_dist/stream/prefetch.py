"""An iterator that runs ahead of its consumer in a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates over `items` in one thread, at most `depth` items ahead (and one being made).

    An exception of `items` is raised in the consumer. `close` ends the thread; it must be called
    when the iterator is not used up. `waited_seconds` adds up the time the consumer was kept.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self.waited_seconds = 0.0
        self._items = items
        self._free = threading.Semaphore(depth)
        self._closing = False
        self._made: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sae-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if self._closing:
            raise StopIteration
        begun = time.perf_counter()
        item, error = self._made.get()
        self.waited_seconds += time.perf_counter() - begun
        if error is not None:
            self._made.put((None, error))  # whoever asks again is told again
            raise error
        self._free.release()
        return item  # type: ignore[return-value]  # only the end and errors come without an item

    def close(self, wake: Callable[[], object] = lambda: None) -> None:
        """End the thread and wait for it; a consumer still waiting gets StopIteration.

        `wake` ends what `items` may be waiting for, by an exception there.
        """
        self._closing = True
        self._free.release()
        wake()
        self._thread.join()

    def _run(self) -> None:
        end: BaseException = StopIteration()
        try:
            while self._free.acquire() and not self._closing:
                self._made.put((next(self._items), None))
        except BaseException as error:
            end = StopIteration() if self._closing else error
        finally:
            self._made.put((None, end))
