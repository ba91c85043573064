"""The signals by which a scheduler asks a job to end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGUSR1)  # the second where Slurm's --signal says so


@contextmanager
def ending_signals() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and SIGUSR1 end nothing: they make what is yielded return true."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {number: signal.signal(number, ask) for number in _ENDING}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
