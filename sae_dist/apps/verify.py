"""Check that a store is what its manifest says: every file's size and, with `full`, its checksum.

    sae-dist verify store=PATH

`full=false` reads manifest, commits and metadata, and looks at sizes alone. `repair=true` mends
what is bad: from what is whole where that says it all, else by harvesting bad units again.
"""

from sae_dist.apps.command import command, entry
from sae_dist.apps.repair import repair
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.config import VerifyConfig
from sae_dist.store import Audit, audit


@command
def verify(config: VerifyConfig) -> Audit:
    """Print each fault that is found, and mend it if asked to.

    Raises:
        UserError: a fault is left.
    """
    found = _audit(config, config.full)
    if config.repair and found.faults:
        repair(config, found)
        found = _audit(config, full=False)
    if found.faults:
        raise UserError(
            f"faults found in {config.store}: {len(found.faults)}; restore what is named above"
        )
    said = "is whole" if found.is_sealed else "is whole as far as it goes"
    log_info(f"{config.store} {said}")
    return found


def _audit(config: VerifyConfig, full: bool) -> Audit:
    found = audit(
        config.store,
        full=full,
        workers=config.workers,
        max_shard_bytes=int(config.max_shard_gib * 2**30),
    )
    for fault in found.faults:
        log_info(str(fault))
    for leftover in found.leftovers:
        log_info(
            f"warning: found {leftover}, which a killed writer left; delete it if none is running"
        )
    rate = found.num_bytes / 1e9 / max(found.seconds, 1e-9)
    looked = f"{found.num_files} files looked at in {found.seconds:.1f} s"
    if full:
        looked += f": {found.num_bytes / 1e9:.3g} GB at {rate:.2f} GB/s"
    log_info(looked)
    if not found.is_sealed:
        log_info(
            f"not sealed: {found.num_committed} of {found.num_units or '?'} units are committed"
        )
    return found


main = entry("verify")
