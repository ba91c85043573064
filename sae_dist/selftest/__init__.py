"""Faults put in on purpose, on the filesystem, launcher and devices a user will use."""

from sae_dist.selftest.check import Check, Found, Place, Result, perform, table
from sae_dist.selftest.filesystem import (
    claims,
    clock,
    locks,
    renames,
    space,
    syncs,
    takeovers,
    visibility,
)
from sae_dist.selftest.jobs import Job
from sae_dist.selftest.rates import copy_rate, disk_rate, product_rate
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
    Check("file locks", "one process holds a lock", locks),
    Check("atomic renames", "no torn file is read", renames),
    Check("visibility", "seen by all ranks within 60 s", visibility),
    Check("clock", "file times in writing order", clock),
    Check("fsync", "less than 1 s", syncs),
    Check("sums", "all ranks agree", sums),
    Check("products", "no rank below half the median", products),
    Check("stream", "no rank below half the median", stream),
    Check("killed writers", "0 torn, store byte-identical", killed_writers),
    Check("damaged store", "file named, also at reading", damage_found),
    Check("death in a save", "all end in 60 s, save before kept", killed_in_a_save),
    Check("SIGTERM", "all ranks save, status 75", terminated),
    Check("resumption", "bits of an undisturbed run", resumed_bitwise),
    Check("NaN on one rank", "all skip that step, learn on", nan_on_one_rank),
)
"""In order: `resumption` goes on with the run that the two checks before it disturbed."""

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
