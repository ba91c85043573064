"""What only the filesystem, launcher and devices that a user will run on can show."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.selftest.check import Check, Found, Place, Result, perform, table
    from sae_dist.selftest.checks import CHECKS, perform_alone
    from sae_dist.selftest.jobs import Job
    from sae_dist.selftest.rates import copy_rate, disk_rate, product_rate

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
    "perform_alone",
    "product_rate",
    "table",
]

lazily(__name__)
