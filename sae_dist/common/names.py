"""Names from which paths are made: they are plain, or refused."""

import re

from sae_dist.common.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LONGEST = 100  # file systems take 255 bytes, of which temporary files need some


def require_plain(kind: str, name: str) -> None:
    """Check the name of a run or rung, before it becomes that of a folder.

    Raises UserError for a name that could lead out of its folder, hide, or break a line.
    """
    if not _PLAIN.fullmatch(name) or len(name) > _LONGEST:
        shown = repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…")
        raise UserError(
            f"{kind}={shown}: a {kind}'s name is letters, digits and . _ + - (not first), at most "
            f"{_LONGEST} of them; choose another"
        )
