"""Faults put in on purpose, on the filesystem, launcher and devices a user will use."""

from sae_dist.selftest.check import Check, Found, Place, Result, perform, table
from sae_dist.selftest.filesystem import claims, clock, renames, space, syncs, takeovers, visibility
from sae_dist.selftest.jobs import Job
from sae_dist.selftest.speed import products, stream, sums
from sae_dist.selftest.stores import damage_found, killed_writers
from sae_dist.selftest.training import (
    killed_in_a_save,
    nan_on_one_rank,
    resumed_bitwise,
    terminated,
)

CHECKS = (
    Check("free space", "1 GB", space),
    Check("claims", "os.link: one owner a name", claims),
    Check("take-overs", "rename: one taker a lock", takeovers),
    Check("atomic renames", "no reader sees half a file", renames),
    Check("visibility", "all ranks see a new file, 60 s", visibility),
    Check("clock", "times of files in order of writing", clock),
    Check("fsync", "less than 1 s", syncs),
    Check("sums", "all ranks agree", sums),
    Check("products", "no rank below half the median", products),
    Check("stream", "no rank below half the median", stream),
    Check("killed writers", "0 torn, store byte-identical", killed_writers),
    Check("damaged store", "verify and reading name the file", damage_found),
    Check("death in a save", "all end within 60 s; last save whole", killed_in_a_save),
    Check("SIGTERM", "all ranks save, status 75", terminated),
    Check("resumption", "bits of an undisturbed run", resumed_bitwise),
    Check("NaN on one rank", "all skip that step, and learn on", nan_on_one_rank),
)
"""In order: `resumption` goes on with the run that the two checks before it disturbed."""

__all__ = ["CHECKS", "Check", "Found", "Job", "Place", "Result", "perform", "table"]
