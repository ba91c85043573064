"""The signals by which a scheduler asks a job to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sae_dist.common.errors import Preempted

_ENDING = (signal.SIGTERM, signal.SIGUSR1)  # the second where Slurm's --signal says so
_GRACE = 5.0  # seconds: if a process failed, the watch of the others tells why meanwhile
_asked = threading.Event()  # a signal is for the whole process
_begun = threading.Event()


@contextmanager
def ending_signals() -> Iterator[Callable[[], bool]]:
    """While inside, SIGTERM and SIGUSR1 make what is yielded return true.

    Until `begun` is called there is nothing to save: then they end the block within seconds, by
    Preempted, whatever the main thread waits for. May be entered again inside: the outermost one,
    left, gives the signals their meaning back.
    """
    handlers = {**dict.fromkeys(_ENDING, _ask), signal.SIGALRM: _end}
    is_outermost = signal.getsignal(signal.SIGTERM) is not _ask
    if is_outermost:  # a run before it in this process had begun
        _begun.clear()
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield _asked.is_set
    finally:
        if is_outermost:
            begun()  # nothing is to be ended any more
        for number, handler in previous.items():
            signal.signal(number, handler)
        if is_outermost:
            _asked.clear()


def begun() -> None:
    """From now on a signal ends nothing by itself: who asks whether there was one ends in order."""
    if not _begun.is_set():
        _begun.set()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.set()
    if not _begun.is_set():
        signal.setitimer(signal.ITIMER_REAL, _GRACE)


def _end(number: int, frame: FrameType | None) -> None:
    if not _begun.is_set():
        raise Preempted("asked to end before the first step; start the command again to go on")
