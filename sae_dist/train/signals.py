"""The signals by which a scheduler asks a job to end, and what its processes make of them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sae_dist.common.errors import Preempted
from sae_dist.parallel import World

_ENDING = (signal.SIGTERM, signal.SIGUSR1)  # the second where Slurm's --signal says so
_GRACE = 5.0  # seconds: if a process failed, the watch of the others tells why meanwhile
_ASK_SECONDS = 1.0  # between two times that processes ask each other
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


class AnyProcess:
    """Whether any process wishes to end, which all ask each other at the same steps.

    Not at every one, as nobody can go on before the slowest has answered: about once a second, or
    while that is not known to be more, after 1, 2, 4, … steps.
    """

    def __init__(self, world: World, step: int) -> None:
        self._world, self._step, self._next = world, step, step + 1
        self._since = time.monotonic()

    def wishes(self, step: int, own: bool) -> bool:
        """After a step, from what this process wishes."""
        if self._world.size == 1:
            return own
        if step < self._next:
            return False
        now, num_steps = time.monotonic(), step - self._step
        wish, seconds = self._world.largest([float(own), (now - self._since) / num_steps])
        asked_again = min(2 * num_steps, int(_ASK_SECONDS / max(seconds, 1e-9)))
        self._step, self._next, self._since = step, step + max(1, asked_again), now
        return bool(wish)


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.set()
    if not _begun.is_set():
        signal.setitimer(signal.ITIMER_REAL, _GRACE)


def _end(number: int, frame: FrameType | None) -> None:
    if not _begun.is_set():
        raise Preempted("asked to end before the first step; start the command again to go on")
