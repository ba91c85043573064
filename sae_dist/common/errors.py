"""The errors whose message is written for the user, and what others say in it."""

REQUEUE = 75  # EX_TEMPFAIL: a scheduler may start the job again


class UserError(Exception):
    """Something the user can mend: one line saying what was found, what was expected, what to do.

    Commands print it as `error: …` on every rank and exit with status 2, without a traceback.
    """


class Preempted(Exception):
    """The job was asked to end (SIGTERM), and a checkpoint has been saved.

    Commands print it, and exit with status REQUEUE.
    """


def one_line(said: str, most: int = 200) -> str:
    """What others said, fit for a message: one line of characters that print, at most so many."""
    return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:most]
