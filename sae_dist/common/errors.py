"""The error whose message is written for the user."""


class UserError(Exception):
    """Something the user can mend: one line saying what was found, what was expected, what to do.

    Commands print it as `error: …` on every rank and exit with status 2, without a traceback.
    """
