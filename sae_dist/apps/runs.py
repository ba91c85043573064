"""Where a run lives, and what its files say."""

import os
from pathlib import Path
from typing import Any

import yaml

from sae_dist.common.errors import UserError
from sae_dist.common.names import require_plain

_MOST_CONFIG_BYTES = 2**20


def run_folder(runs: str, name: str) -> Path:
    """`runs/name`; `runs` may be a link to another disk, but nothing inside leads out of it.

    Raises:
        UserError: the name could lead out, or a link down to two levels below does.
    """
    require_plain("run", name)
    folder, root = Path(runs) / name, os.path.realpath(runs)
    links = {folder, *folder.glob("*"), *folder.glob("*/*")}
    for path in sorted(links - {folder / "checkpoints" / "latest"}):  # which is never followed
        target = os.path.realpath(path)
        if path.is_symlink() and os.path.commonpath([root, target]) != root:
            raise UserError(
                f"found a link {path} to {target}; expected all of a run inside {runs}; remove the "
                "link, or set runs=… to a folder on that disk"
            )
    return folder


def finished_run(runs: str, name: str) -> tuple[Path, dict[str, Any]]:
    """The folder and the training configuration of a run that was started.

    Raises:
        UserError: there is none, or it is not what `launch/train.py` writes.
    """
    folder = run_folder(runs, name)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"no run in {folder}; expected {path.name} there: train with run={name} first"
        )
    config = _read(path)
    if not isinstance(config, dict) or not isinstance(config.get("store"), str):
        raise UserError(f"found no store in {path}; expected a run's configuration; restore it")
    return folder, {str(key): value for key, value in config.items()}


def _read(path: Path) -> Any:
    """Plain YAML: no tags, so nothing of it is ever called, and no `${…}` is filled in."""
    with path.open("rb") as file:
        data = file.read(_MOST_CONFIG_BYTES + 1)
    if len(data) > _MOST_CONFIG_BYTES:
        raise UserError(f"found {path} beyond 1 MiB; expected a run's configuration; restore it")
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or type(error).__name__
        raise UserError(
            f"found {path} unreadable ({reason}); expected plain YAML; restore it"
        ) from error
