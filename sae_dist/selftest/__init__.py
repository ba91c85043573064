"""What only the filesystem, launcher and devices that a user will run on can show."""

from sae_dist.selftest.check import Check, Found, Place, Result, perform, table
from sae_dist.selftest.filesystem import claims, locks, renames, space, syncs, visibility
from sae_dist.selftest.jobs import Job
from sae_dist.selftest.rates import copy_rate, disk_rate, product_rate
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

__all__ = [
    "CHECKS",
    "Check",
    "Found",
    "Job",
    "Place",
    "Result",
    "copy_rate",
    "disk_rate",
    "perform",
    "product_rate",
    "table",
]
