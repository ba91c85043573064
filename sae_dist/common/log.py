"""Messages and progress bars from rank 0, warnings from all."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sae_dist.common.credentials import without_credentials

if TYPE_CHECKING:
    from tqdm import tqdm

_LOG_SECONDS = 30.0
_bars: "WeakSet[tqdm]" = WeakSet()  # on a terminal; a closed one says that it is disabled
_quiet = Event()


def rank() -> int:
    """This process' rank, as its launcher (torchrun, accelerate, Slurm) set it; 0 alone."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing, warn of nothing and show no bar: whoever asks for it tells what came of it."""
    _quiet.set()
    try:
        yield
    finally:
        _quiet.clear()


def log_info(message: str) -> None:
    """Print one line on rank 0, above any progress bar."""
    if rank() == 0 and not _quiet.is_set():
        _write_line(without_credentials(message))


def write_error(message: str) -> None:
    """Print what ended a process in one line, whatever its rank."""
    who = "error" if rank() == 0 else f"error (rank {rank()})"
    line = without_credentials(" ".join(message.split()))
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    start = "\n" if any(not bar.disable for bar in _bars) else ""  # a bar's line has no end
    sys.stderr.write(f"{start}{who}: {line}\n")  # at once, so that processes' lines do not mix
    sys.stderr.flush()


def warn(message: str) -> None:
    """Print one line on whatever rank it happens: something is amiss, and the work goes on."""
    if _quiet.is_set():
        return
    who = "warning" if rank() == 0 else f"warning (rank {rank()})"
    _write_line(f"{who}: {without_credentials(message)}")


def _write_line(line: str) -> None:
    """Above any bar, if anybody can have made one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


def progress(
    iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any
) -> "tqdm":
    """A tqdm bar that only rank 0 shows, if `shown`; in a file it is a line every half minute."""
    from tqdm import tqdm

    from sae_dist.common.bars import Lines

    options |= {"disable": rank() != 0 or not shown or _quiet.is_set(), "file": sys.stderr}
    if not sys.stderr.isatty():
        return Lines(iterable, mininterval=_LOG_SECONDS, maxinterval=_LOG_SECONDS, **options)
    bar = tqdm(iterable, dynamic_ncols=True, **options)
    _bars.add(bar)
    return bar
