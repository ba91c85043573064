"""Check that a store is what its manifest says: every file's size and, with `full`, its checksum.

    python launch/verify.py store=PATH

`full=false` looks at sizes alone.
"""

from pathlib import Path

from sae_dist.apps import cli
from sae_dist.common.errors import UserError
from sae_dist.common.log import say
from sae_dist.config import VerifyConfig
from sae_dist.store import verify


def main() -> None:
    """The command."""
    cli.run(verify_command, "verify", __doc__ or "")


def verify_command(config: VerifyConfig) -> None:
    """Print each fault that is found; fail if there is one."""
    faults = verify(Path(config.store), full=config.full, workers=config.workers)
    for fault in faults:
        say(fault)
    if faults:
        raise UserError(
            f"faults found in {config.store}: {len(faults)}; restore what is named above"
        )
    say(f"{config.store} is whole")
