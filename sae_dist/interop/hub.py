"""Coders on the Hugging Face Hub: `hub:USER/REPO/FOLDER@REVISION`, and pushing to it.

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
from sae_dist.interop.formats import all_formats

PREFIX = "hub:"
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_WHERE = re.compile(rf"hub:({_PLAIN}/{_PLAIN})((?:/{_PLAIN})*)(?:@([A-Za-z0-9][\w./+-]*))?")


def download(where: str) -> Path:
    """Download a coder's files into the Hub's cache: by name, and no pickles.

    Raises:
        UserError: an address of another form, nothing there, or a Hub that does not answer.
    """
    match = _WHERE.fullmatch(where)
    if not match:
        raise UserError(f"found {where}; expected hub:USER/REPO/FOLDER, with @REVISION to pin it")
    repo, path, revision = match[1], match[2].strip("/"), match[3]
    pickles = {one.weights for one in all_formats() if one.is_pickle}
    files = {file for one in all_formats() for file in one.files} - pickles
    patterns = [f"{path}/{file}".lstrip("/") for file in sorted(files)]
    with _told_in_one_line(where):
        snapshot = _hub().snapshot_download(repo, revision=revision, allow_patterns=patterns)
    folder = Path(snapshot) / path
    if not any((folder / one.weights).is_file() for one in all_formats()):
        raise UserError(
            f"found no coder at {where}; expected a folder with one of {', '.join(sorted(files))}; "
            f"look after the address ({', '.join(pickles)}, a pickle, download yourself)"
        )
    return folder


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
    there = {PurePosixPath(file).name for file in found}
    for other in all_formats():
        if other.name != format.name and other.weights in there:
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
