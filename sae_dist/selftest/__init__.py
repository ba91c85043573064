"""What only the filesystem, launcher and devices that a user will run on can show."""

from sae_dist.selftest.check import Check
from sae_dist.selftest.check import Found as Found
from sae_dist.selftest.check import Place as Place
from sae_dist.selftest.check import Result as Result
from sae_dist.selftest.check import perform as perform
from sae_dist.selftest.check import table as table
from sae_dist.selftest.filesystem import claims, locks, renames, space, syncs, visibility
from sae_dist.selftest.jobs import Job as Job
from sae_dist.selftest.rates import copy_rate as copy_rate
from sae_dist.selftest.rates import disk_rate as disk_rate
from sae_dist.selftest.rates import product_rate as product_rate
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
