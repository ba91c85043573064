"""Write a checkout's files for launchers: accelerate's settings, Slurm scripts, the first run.

    sae-dist files
    sbatch launch/slurm/train.sbatch store=PATH run=NAME +sweep=width_ladder

They come into the folder `launch` of `to=FOLDER`, by default of this one, so that the paths in the
documentation hold there too. A file that is there with other contents is left as it is.
"""

import shutil
from filecmp import cmp
from pathlib import Path

from sae_dist.apps.command import command, entry
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.common.log import log_info
from sae_dist.config import FilesConfig, launch_folder

_SHIPPED = ("accelerate/*", "slurm/*", "first_run.sh")  # what of `launch/` pyproject.toml packs


@command
def files(config: FilesConfig) -> Path:
    """Copy what is not there yet, or nothing if the user has changed any of it."""
    source, to = launch_folder(), Path(config.to) / "launch"
    paths = sorted(p.relative_to(source) for shipped in _SHIPPED for p in source.glob(shipped))
    for path in paths:
        if (to / path).exists() and not cmp(source / path, to / path, shallow=False):
            raise UserError(
                f"found {to / path} with other contents; expected none or those of this version; "
                "move it away, or name another folder: to=…"
            )
    for path in paths:
        with atomic_path(to / path) as temporary:
            shutil.copy(source / path, temporary)  # with its permissions: scripts can be run
    log_info(f"{len(paths)} files in {to}")
    return to


main = entry("files")
