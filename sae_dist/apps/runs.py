"""Where a run lives, and what its files say."""

import os
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.common.errors import UserError
from sae_dist.common.names import require_plain
from sae_dist.common.settings import validate
from sae_dist.config import HarvestConfig, Source, SourceConfig, place_key

_MOST_CONFIG_BYTES = 2**20
_Config = TypeVar("_Config")


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
        UserError: there is neither, or it is not what `sae-dist train` writes.
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
    place = isinstance(config, dict) and config.get(place_key(config.get("source")))
    if not isinstance(place, str | dict):
        raise UserError(f"found no source in {path}; expected a run's configuration; restore it")
    return folder, {str(key): value for key, value in config.items()}


def source_of(
    trained: dict[str, Any], store: str | None, run: str, key: str = "store"
) -> SourceConfig:
    """What a run was trained on, where the setting `key` says that it is now, or where it was.

    Args:
        trained: the run's configuration; empty for coders from elsewhere.
        store: the setting's value; a meta-SAE's is the folder of the coder.

    Raises:
        UserError: nobody says where it is, or nothing is there.
    """
    if not trained:
        if store is None:
            raise UserError(
                f"run={run} was not trained here, so that its store is not known; expected "
                f"{key}=…: name the activations to measure it on"
            )
        return SourceConfig(store=store)
    source = Source(trained.get("source", Source.stored))
    found = store or trained[place_key(source)]
    if source is Source.live:
        return SourceConfig(source=source, harvest=_harvest(found))
    if store is None and "://" not in found and not Path(found).exists():
        raise UserError(
            f"found no {found}, the {'store' if source is Source.stored else 'coder'} that "
            f"run={run} was trained on; expected it there, or {key}=… to say where it is now"
        )
    if source is Source.stored:
        return SourceConfig(store=found, aligned=dict(trained.get("aligned") or {}))
    return SourceConfig(source=source, decoder=found)


def started_text(folder: Path) -> dict[str, Any]:
    """How the text of a live run was asked for, and its commit on the Hub; empty for others."""
    if not (folder / "config.yaml").is_file():
        return {}
    harvest = finished_run(str(folder.parent), folder.name)[1].get("harvest")
    return asdict(_harvest(harvest).text) if harvest else {}


def _harvest(told: Any) -> HarvestConfig:
    remedy = "expected what sae-dist train wrote; restore it"
    made = as_written(HarvestConfig, told, "no harvest in the run's config.yaml", remedy)
    validate(made, "harvest.")
    return made


def as_written(schema: type[_Config], told: Any, what: str, remedy: str) -> _Config:
    """The configuration that a file's values are; UserError says `what` was found where none."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), told)
        return cast(_Config, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"found {what} ({str(error).splitlines()[0]}); {remedy}") from error


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
