"""Where a run lives, and what its files say."""

import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sae_dist.common.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def run_folder(runs: str, name: str) -> Path:
    """`runs/name`.

    Raises:
        UserError: the name could lead out of that folder.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"run={name!r}: a run's name is letters, digits and . _ + - (not first); choose another"
        )
    return Path(runs) / name


def finished_run(runs: str, name: str) -> tuple[Path, dict[str, Any]]:
    """The folder and the training configuration of a run that was started.

    Raises:
        UserError: there is none.
    """
    folder = run_folder(runs, name)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"no run in {folder}; expected {path.name} there: train with run={name} first"
        )
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return folder, {str(key): value for key, value in config.items()}
