"""What only the filesystem, launcher and devices that a user will run on can show."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.selftest.check import Check as Check
    from sae_dist.selftest.check import Found as Found
    from sae_dist.selftest.check import Place as Place
    from sae_dist.selftest.check import Result as Result
    from sae_dist.selftest.check import perform as perform
    from sae_dist.selftest.check import table as table
    from sae_dist.selftest.checks import CHECKS as CHECKS
    from sae_dist.selftest.checks import perform_alone as perform_alone
    from sae_dist.selftest.jobs import Job as Job
    from sae_dist.selftest.rates import copy_rate as copy_rate
    from sae_dist.selftest.rates import disk_rate as disk_rate
    from sae_dist.selftest.rates import product_rate as product_rate


lazily(__name__)
