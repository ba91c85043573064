"""Try what the promises rest on where you will run: filesystem, messages, rates, a killed run.

    sae-dist selftest folder=/scratch/me
    torchrun --nproc-per-node 8 -m sae_dist selftest folder=/scratch/me
    srun sae-dist selftest folder=/scratch/me

Give a folder of the filesystem that stores and runs will lie on, and start it as training will be
started; alone, it starts a process a GPU, or two. All is written into one new subfolder, of which
only `selftest.json` stays, and only processes that it started are killed.
"""

import os
import shutil
import signal
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from sae_dist import __version__
from sae_dist.apps.command import command, entry
from sae_dist.apps.terminal import show
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_json
from sae_dist.common.log import log_info
from sae_dist.config import SelftestConfig
from sae_dist.parallel import World, start_world
from sae_dist.selftest import CHECKS, Job, Place, Result, perform, table

_RECORD = "selftest.json"


@command
def selftest(config: SelftestConfig) -> None:
    """Make every check; called by each process that a launcher started, or alone."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends jobs, too
    if "RANK" not in os.environ:
        sys.exit(_launch(config))
    with start_world() as world:
        place = Place(_fresh_folder(config, world), world)
        results = perform(CHECKS, place)
        if world.rank == 0:
            _conclude(place.folder, results, config.keep)
        failed = [result.check for result in results if not result.ok]
        if failed and world.rank == 0:
            raise UserError(
                f"{len(failed)} of {len(results)} checks failed in {place.folder}: "
                f"{', '.join(failed)}; see {_RECORD} there"
            )
    if failed:
        sys.exit(2)


def _launch(config: SelftestConfig) -> int:
    """Start this command again as a process a GPU, or as `processes`; the worst exit status."""
    world = config.processes or torch.cuda.device_count() or 2
    with Job("sae_dist.apps.selftest", sys.argv[1:], world) as job:
        return max(abs(status or 0) for status in job.wait())


def _fresh_folder(config: SelftestConfig, world: World) -> Path:
    """A new subfolder, made by the first rank and known to all."""
    box = [f"selftest-{uuid.uuid4().hex[:8]}"]
    dist.broadcast_object_list(box, src=0)
    folder = Path(config.folder).absolute() / box[0]
    if world.rank == 0:
        folder.mkdir()
    dist.barrier()
    return folder


def _conclude(folder: Path, results: list[Result], keep: bool) -> None:
    """Print the table, write it as JSON, and remove everything else."""
    if not keep:
        shutil.rmtree(folder)
        folder.mkdir()
    write_json(
        folder / _RECORD,
        {
            "sae_dist": __version__,
            "torch": torch.__version__,
            "ranks": dist.get_world_size(),
            "results": [asdict(result) for result in results],
        },
    )
    show(table(results))
    log_info(f"as JSON in {folder / _RECORD}")


main = entry("selftest")

if __name__ == "__main__":
    main()
