"""Coders on the Hugging Face Hub: `hub:USER/REPO/PLACE@REVISION`, and pushing to it.

A place is a coder's folder or the file of its weights. Pickles, and
one of several coders in a folder, are fetched only by their own name.

The token is what `hf auth login` or HF_TOKEN says; it is huggingface_hub's alone to read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sae_dist.common.errors import UserError, one_line
from sae_dist.common.names import require_repo
from sae_dist.interop.format import Format
from sae_dist.interop.formats import all_formats, formats_of

PREFIX = "hub:"
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_WHERE = re.compile(rf"hub:({_PLAIN}/{_PLAIN})((?:/{_PLAIN})*)(?:@([A-Za-z0-9][\w./+-]*))?")


def download(where: str) -> Path:
    """Download a coder's files, and nothing else, into the Hub's cache.

    Returns:
        the folder, or the file where one was named.

    Raises:
        UserError: an address of another form, nothing there, or a Hub that does not answer.
    """
    match = _WHERE.fullmatch(where)
    if not match:
        raise UserError(
            f"found {where}; expected hub:USER/REPO/FOLDER, or a coder's file there, with "
            "@REVISION to pin it"
        )
    repo, place, revision = match[1], PurePosixPath(match[2].strip("/")), match[3]
    named = [one for one in all_formats() if place.match(one.weights)]
    formats = named or [one for one in all_formats() if not one.is_fetched_by_file]
    files = {place, *(file for one in named for file in one.settings_of(place))}
    if not named:
        files = {place / file for one in formats for file in one.files}
    patterns = sorted(map(str, files))
    with _told_in_one_line(where):
        snapshot = _hub().snapshot_download(repo, revision=revision, allow_patterns=patterns)
    found = Path(snapshot) / place
    if not (found.is_file() or any(any(found.glob(one.weights)) for one in formats)):
        known = ", ".join(sorted(one.weights for one in formats))
        by_file = ", ".join(sorted(one.weights for one in all_formats() if one.is_fetched_by_file))
        raise UserError(
            f"found no coder at {where}; expected a folder with one of {known}; look after the "
            f"address ({by_file} are fetched only where it ends with the file's name)"
        )
    return found


def push(folder: Path, files: list[Path], format: Format, repo: str, *, private: bool) -> str:
    """Upload files of a folder in one commit; a repository that is absent is made.

    Args:
        folder: whose layout the repository gets.
        files: inside it.
        format: theirs. A repository holds one alone: several share names of files.
        repo: `USER/REPO`.
        private: whether a new repository is.

    Returns:
        the commit's address.

    Raises:
        UserError: no such form of name, another format in the repository, or a refusal of the Hub.
    """
    require_repo("push", repo)
    hub = _hub()
    with _told_in_one_line(repo):
        api = hub.HfApi(library_name="sae_dist")
        api.create_repo(repo, private=private, exist_ok=True)
        _require_alone(api.list_repo_files(repo), format, repo)
        operations = [
            hub.CommitOperationAdd(file.relative_to(folder).as_posix(), file) for file in files
        ]
        message = f"Coders for {format.title}"
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


def _require_alone(found: list[str], format: Format, repo: str) -> None:
    """Refuse a repository that holds weights of another format."""
    there = set(map(PurePosixPath, found))
    for file in sorted(there):
        for other in formats_of(file, there.__contains__):
            if other.name != format.name:
                raise UserError(
                    f"{repo} holds coders for {other.title}; a repository holds one format: push "
                    f"those for {format.title} to another"
                )


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "the Hub needs the package huggingface_hub: pip install 'sae-dist[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _told_in_one_line(where: str) -> Iterator[None]:
    """What the client raises, refusals and networks that are down included, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of several libraries below the client, which has changed them
        reason = one_line(next((line for line in str(error).splitlines() if line.strip()), ""))
        raise UserError(
            f"the Hub refused {where} ({type(error).__name__}: {reason}); look after the "
            "name, the revision, the network, and whether HF_TOKEN may read or write there"
        ) from error
