"""Names of which folders, projects and repositories are made: they can be that, or are refused."""

import difflib
import re
from collections.abc import Iterable

from sae_dist.common.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NOT_OF_WANDB = re.compile(r"[/\\#?%:\s]")
_ON_THE_HUB = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_ON_THE_HUB}/{_ON_THE_HUB}")
_LONGEST_REPO = 96
_LONGEST = 100  # file systems take 255 bytes, of which temporary files need some


def require_plain(kind: str, name: str) -> None:
    """Check the name of a run or rung, as it is given for `kind`, before a folder is called so.

    Raises UserError for a name that could lead out of its folder, hide, or break a line.
    """
    if not _PLAIN.fullmatch(name) or len(name) > _LONGEST:
        shown = repr(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…")
        raise UserError(
            f"{kind}={shown}: a {kind.rpartition('.')[2]}'s name is letters, digits and . _ + - "
            f"(not first), at most {_LONGEST} of them; choose another"
        )


def require_project(key: str, name: str) -> None:
    """Check the name of a project or an entity, before W&B refuses it. Raises UserError."""
    if not name or _NOT_OF_WANDB.search(name) or len(name) > _LONGEST:
        raise UserError(
            f"{key}={name!r:.120}; expected a name without / \\ # ? % : or blanks, of at most "
            f"{_LONGEST} characters; choose another"
        )


def require_repo(key: str, repo: str) -> None:
    """Refuse a repository's name of another form than USER/REPO, or one that the Hub refuses."""
    name = repo.partition("/")[2]
    is_refused = name.endswith(".git") or "--" in repo or ".." in repo or len(repo) > _LONGEST_REPO
    if not _REPO.fullmatch(repo) or is_refused:
        raise UserError(
            f"{key}={repo}; expected USER/REPO, a model repository on the Hub: letters, digits and "
            f". _ -, neither -- nor .. nor .git at the end, at most {_LONGEST_REPO}; choose another"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a line that names the nearest; nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
