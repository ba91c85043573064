"""Try what the promises rest on where you will run: filesystem, messages, rates, a killed run.

    sae-dist selftest folder=/scratch/me
    torchrun --nproc-per-node 8 -m sae_dist selftest folder=/scratch/me
    srun sae-dist selftest folder=/scratch/me

Give a folder of the filesystem that stores and runs will lie on, and start it as training will be
started; alone, it starts a process a GPU, or two. All is written into one new subfolder, of which
`selftest.json` stays, and what messages take, `machine/measured.yaml`: training and plans choose
meshes by it with `hydra.searchpath=[SUBFOLDER] machine=measured`. Only processes that it started
are killed.
"""

import datetime
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from sae_dist import __version__
from sae_dist.apps.command import command, entry
from sae_dist.apps.terminal import show
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic, write_json
from sae_dist.common.log import log_info, rank
from sae_dist.config import SelftestConfig
from sae_dist.parallel import start_world
from sae_dist.selftest import CHECKS, Place, Result, perform, perform_alone, table

_RECORD, _MACHINE = "selftest.json", "machine/measured.yaml"


@command
def selftest(config: SelftestConfig) -> list[Result]:
    """Make every check; called by each process that a launcher started, or alone.

    Returns:
        what each check found.

    Raises:
        UserError: a check found another thing than was promised.
    """
    with _jobs_end_at_sigterm():
        if "RANK" in os.environ:
            with start_world() as world:
                folder = on_first_rank(None, lambda: _fresh_folder(config))
                results, num_processes = perform(CHECKS, Place(folder, world)), world.size
        else:
            num_processes = config.processes or torch.cuda.device_count() or 2
            folder = _fresh_folder(config)
            results = perform_alone(folder, num_processes)
    if rank() == 0:
        _conclude(folder, results, num_processes, config.keep)
    if failed := [result.check for result in results if not result.ok]:
        raise UserError(
            f"{len(failed)} of {len(results)} checks failed in {folder}: "
            f"{', '.join(failed)}; see {_RECORD} there"
        )
    return results


@contextmanager
def _jobs_end_at_sigterm() -> Iterator[None]:
    """The signal leaves by every `with`, so that processes that were started end, too."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fresh_folder(config: SelftestConfig) -> Path:
    folder = Path(config.folder).absolute() / f"selftest-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return folder


def _conclude(folder: Path, results: list[Result], num_processes: int, keep: bool) -> None:
    """Print the table, write it as JSON, and remove everything else."""
    if not keep:
        shutil.rmtree(folder)
        folder.mkdir()
    write_json(
        folder / _RECORD,
        {
            "sae_dist": __version__,
            "torch": torch.__version__,
            "ranks": num_processes,
            "results": [asdict(result) for result in results],
        },
    )
    show(table(results))
    log_info(f"as JSON in {folder / _RECORD}")
    if measured := {key: value for one in results for key, value in one.measured.items()}:
        written = _machine(measured)
        (folder / _MACHINE).parent.mkdir(exist_ok=True)
        write_atomic(folder / _MACHINE, written.encode())
        show(f"\n{written}")
        log_info(f"for machine=measured hydra.searchpath=[{folder}]")


def _machine(measured: dict[str, float]) -> str:
    """A file of `conf/machine/` that says what was measured."""
    where = f"{torch.cuda.get_device_name()}, NCCL" if torch.cuda.is_available() else "CPUs, gloo"
    head = (
        f"# Measured by sae-dist selftest on {where}, {datetime.date.today()}.\n"
        "# The rest is as of an H100, or with `defaults: [NAME]` as of another machine.\n"
    )
    return head + "".join(f"{key}: {value:.4g}\n" for key, value in measured.items())


main = entry("selftest")
