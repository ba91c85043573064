"""What memory this process holds, and when the C library and Python give it back."""

import ctypes
import gc
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1


def peak_bytes() -> int:
    """The most resident memory that this process has held.

    Elsewhere than on Linux `getrusage` says it, which gives a process that was just started what
    the one that started it had held.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next step instead of returning them to the system.

    A step's gradients and temporaries are tens of megabytes; fetched anew, each of their pages
    costs a fault: 15 % of a TopK step on two cores. Does nothing with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST)
        mallopt(_M_TRIM_THRESHOLD, _MOST)


@contextmanager
def collected_every(num_steps: int) -> Iterator[Callable[[], None]]:
    """While inside, Python's garbage is collected once in so many calls of what is yielded.

    By itself it would be at any time, and on each process at another: all wait for who collects.
    What is there already is never looked through again.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    calls = count(1)

    def called() -> None:
        if next(calls) % num_steps == 0:
            gc.collect()

    try:
        yield called
    finally:
        gc.enable()
        gc.unfreeze()
