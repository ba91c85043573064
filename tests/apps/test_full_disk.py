"""What every command says of a disk that is full or may not be written, and what it leaves."""

import contextlib
import errno
import io
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sae_dist.apps import (
    compare,
    evaluate,
    export,
    files,
    import_coder,
    plan,
    report,
)
from sae_dist.parallel import World
from tests.processes import run_on
from tests.reliability.bench import Bench, Desk
from tests.reliability.small_disk import remount, small_disk

PLANNED = (
    *("harvest.lm=pythia_70m", "harvest.text=fineweb", "harvest.sites=[resid_post.3]"),
    *("harvest.tokens=1M", "harvest.store=planned", "train.store=planned", "train.run=planned"),
)
COMMANDS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "evaluate": (evaluate.main, ("run=r",)),
    "report": (report.main, ("run=r",)),
    "compare": (compare.main, ("run=[r]", "to=side_by_side")),
    "import": (import_coder.main, ("path=a_sae", "to=ours", "site=in")),
    "plan": (plan.main, ("train.coder=topk", "to=plans/plan.json", *PLANNED)),
    "files": (files.main, ()),
    **{
        f"export to {name}": (export.main, ("run=r", f"to={name}"))
        for name in ("saelens", "sparsify", "dictionary_learning", "sae_dist")
    },
}
FULL = r"error: {} for (?!/)\S+: found \S+ GB free; expected more; free some"
REFUSED = r"error: found (?!/)\S+ refused by the system \({}\); expected a place that this user may"
_LEAST = 64  # bytes; all that is written is larger


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A folder in which each command finds what it needs."""
    desk = Bench(tmp_path_factory.mktemp("bench")).fresh("store", "runs")
    desk.run(evaluate.main, "run=r")
    desk.run(export.main, "run=r", "to=saelens", "folder=exported")
    next((desk.folder / "exported").glob("topk-*")).rename(desk.folder / "a_sae")
    return desk


def refuses(desk: Desk, name: str, said: str) -> None:
    """The command ends in one line, and nothing is there that was not before, or has changed."""
    before = desk.files()
    outcome = desk.run(COMMANDS[name][0], *COMMANDS[name][1])
    assert outcome.status == 2 and desk.files() == before
    assert len(outcome.lines) == 1 and re.match(said, outcome.lines[0]), outcome.said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_the_system_refuses_is_told_in_a_line(desk: Desk, name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LEAST, hard))
    try:
        refuses(desk, name, REFUSED.format("File too large"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_and_a_read_only_disk_are_told_and_the_same_commands_go_on(
    desk: Desk, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4096) as folder:
        there = Desk(shutil.copytree(desk.folder, folder / "desk"))
        with open(folder / "hog", "wb", buffering=0) as hog, contextlib.suppress(OSError):
            while hog.write(bytes(4096)):
                pass
        for name in COMMANDS:
            refuses(there, name, FULL.format("No space left on device"))
        remount(folder, "ro")
        for name in COMMANDS:
            refuses(there, name, REFUSED.format("Read-only file system"))
        remount(folder, "rw")
        (folder / "hog").unlink()
        for name, (main, arguments) in COMMANDS.items():
            assert there.run(main, *arguments).status == 0, name


def out_of_quota(descriptor: int) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def evaluate_on(world: World, folder: Path) -> tuple[Any, str]:
    """As torchrun starts it, where rank 0 may not write; the status, and what this rank says."""
    with (
        mock.patch("os.fsync", out_of_quota if world.rank == 0 else os.fsync),
        contextlib.chdir(folder),
        mock.patch.object(evaluate, "start_world", lambda: contextlib.nullcontext(world)),
        mock.patch.object(sys, "argv", ["evaluate", "run=r"]),
        contextlib.redirect_stderr(io.StringIO()) as said,
        pytest.raises(SystemExit) as ending,
    ):
        evaluate.main()
    return ending.value.code, said.getvalue().splitlines()[-1]


def test_what_one_rank_cannot_write_ends_all(desk: Desk) -> None:
    before = desk.files()
    (one, first), (other, second) = run_on(2, evaluate_on, desk.folder)
    assert one == other == 2 and desk.files() == before
    assert re.match(FULL.format("Disk quota exceeded"), first)
    assert second == first.replace("error:", "error (rank 1):")
