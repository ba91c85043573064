"""What a command and its terminal say to each other: results, and one line for what ended it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sae_dist.common.errors import REQUEUE, Preempted, UserError
from sae_dist.common.log import log_info, write_error

_MISTAKE, _INTERRUPTED = 2, 130  # 128 + SIGINT, as shells have it


@contextmanager
def ended_in_one_line() -> Iterator[None]:
    """End the process where something ends a command that its user can understand.

    A mistake of the user's leaves one line on standard error, on every rank, and status 2; a saved
    preemption one and status 75; Ctrl-C one and status 130.
    """
    try:
        yield
    except UserError as error:
        write_error(str(error))
        sys.exit(_MISTAKE)
    except Preempted as ending:
        log_info(str(ending))
        sys.exit(REQUEUE)
    except KeyboardInterrupt:
        write_error("interrupted")
        sys.exit(_INTERRUPTED)


def show(text: str) -> None:
    """Print a result. Whoever reads it may have enough of it (`| head`), which is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what Python flushes at its end goes nowhere, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
