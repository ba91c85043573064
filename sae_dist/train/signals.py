"""The signals by which a scheduler asks a job to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGUSR1)  # the second where Slurm's --signal says so
_asked = threading.Event()  # a signal is for the whole process


@contextmanager
def ending_signals() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and SIGUSR1 end nothing: they make what is yielded return true.

    May be entered again inside: the outermost one, left, gives the signals their meaning back.
    """
    previous = {number: signal.signal(number, _ask) for number in _ENDING}
    try:
        yield _asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if _ask not in previous.values():
            _asked.clear()


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.set()
