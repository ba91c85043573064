"""Where a run lives, and what its files say."""

import os
from difflib import get_close_matches
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
    """The folder of a run, and the configuration it was trained with.

    The configuration is empty where nothing was trained and coders lie that `import_coder` wrote.

    Raises:
        UserError: there is neither, or it is not what `launch/train.py` writes.
    """
    folder = run_folder(runs, name)
    path = folder / "config.yaml"
    if not path.is_file():
        if next((folder / "coders").glob("*/coder.json"), None):
            return folder, {}
        near = get_close_matches(name, [run.name for run in Path(runs).glob("*")], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"train with run={name} first"
        raise UserError(f"no run in {folder}; expected {path.name} or coders there: {hint}")
    config = _read(path)
    if not isinstance(config, dict) or not isinstance(config.get("store"), str):
        raise UserError(f"found no store in {path}; expected a run's configuration; restore it")
    return folder, {str(key): value for key, value in config.items()}


def store_of(trained: dict[str, Any], store: str | None, run: str, key: str = "store") -> str:
    """Where a run's store is: as said by the setting `key`, or as it was when it was trained on.

    Raises:
        UserError: nobody says, or nothing is there (`coder:FOLDER` and `live` have no place).
    """
    found = store or trained.get("store")
    if found is None:
        raise UserError(
            f"run={run} was not trained here, so that its store is not known; expected {key}=…: "
            "name the activations to measure it on"
        )
    is_place = ":" not in found and found != "live"
    if store is None and is_place and not Path(found).exists():
        raise UserError(
            f"found no {found}, the store that run={run} was trained on; expected it there, or "
            f"{key}=… to say where it is now"
        )
    return str(found)


def coders_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The description of each coder of a run, by its rung's name.

    Raises:
        UserError: there is none, or it is not sound.
    """
    from sae_dist.coders import describe_coder  # with torch, which no other question here needs

    paths = sorted(path.parent for path in (folder / "coders").glob("*/coder.json"))
    if not paths:
        raise UserError(
            f"no coders in {folder / 'coders'}; expected a finished run: train it to its end first"
        )
    return {path.name: describe_coder(path) for path in paths}


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
