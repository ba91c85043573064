"""All checks, and the processes that make them where no launcher started any."""

import sys
from dataclasses import asdict
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_json
from sae_dist.parallel import start_world
from sae_dist.selftest.check import Check, Place, Result, perform
from sae_dist.selftest.filesystem import claims, locks, renames, space, syncs, visibility
from sae_dist.selftest.jobs import Job
from sae_dist.selftest.resume import kill_and_resume
from sae_dist.selftest.speed import products, stream, sums

CHECKS = (
    Check("free space", "1 GB", space),
    Check("claims", "os.link: one owner a name", claims),
    Check("file locks", "one process holds a lock", locks),
    Check("atomic renames", "no torn file is read", renames),
    Check("visibility", "seen by all ranks within 60 s", visibility),
    Check("fsync", "less than 1 s", syncs),
    Check("sums", "all ranks agree", sums),
    Check("products", "no rank below half the median", products),
    Check("stream", "no rank below half the median", stream),
    Check("kill and resume", "bits of an undisturbed run", kill_and_resume),
)
_RESULTS = "results.json"


def perform_alone(folder: Path, num_processes: int) -> list[Result]:
    """Make all checks in `folder`, on as many new processes of this host.

    Raises:
        UserError: one of them ended before its time.
    """
    with Job(__name__, [str(folder)], num_processes) as job:
        statuses = job.wait()
    if any(statuses):
        raise UserError(
            f"found processes of the self-test ended with {statuses}; expected 0 of each; what "
            "they said stands above"
        )
    return [Result(**found) for found in read_json(folder / _RESULTS)]


def main() -> None:
    """One of these processes."""
    folder = Path(sys.argv[1])
    with start_world() as world:
        results = perform(CHECKS, Place(folder, world))
        if world.rank == 0:
            write_json(folder / _RESULTS, [asdict(result) for result in results])
