"""What a command must find before it is worth loading: asked of its settings and of the disk.

These mistakes are the common ones. Each is answered before torch is imported, which takes longer
than all the rest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.common.errors import UserError
from sae_dist.config import (
    CompareConfig,
    EvaluateConfig,
    HarvestConfig,
    ImportConfig,
    SelftestConfig,
    Source,
    TrainConfig,
    VerifyConfig,
    place_key,
)
from sae_dist.lm.config import local_folder


def check(name: str, config: Any) -> None:
    """Raise UserError if the command `name` would refuse `config` for one of these reasons."""
    if name in _CHECKS:
        _CHECKS[name](config)


def _harvest(config: HarvestConfig) -> None:
    local_folder(config.lm)


def _train(config: TrainConfig) -> None:
    run_folder(config.runs, config.run)
    if config.source is Source.live:
        local_folder(cast(HarvestConfig, config.harvest).lm, "harvest.lm.name")
    else:
        key = place_key(config.source)
        _folder(getattr(config, key), "coder" if key == "decoder" else key)


def _evaluate(config: EvaluateConfig) -> None:
    for name in config.run:
        if config.store is None:
            finished_run(config.runs, name)
        else:  # of coders from elsewhere, nothing was trained
            run_folder(config.runs, name)
    if config.store is not None:
        _folder(config.store)


def _run(config: Any) -> None:
    finished_run(config.runs, config.run)


def _compare(config: CompareConfig) -> None:
    for name in config.run:
        finished_run(config.runs, name)


def _import_coder(config: ImportConfig) -> None:
    if Path(config.to).exists():
        raise UserError(
            f"to={config.to} exists; expected a new folder; choose another, or remove it"
        )


def _verify(config: VerifyConfig) -> None:
    _folder(config.store)


def _selftest(config: SelftestConfig) -> None:
    if not Path(config.folder).is_dir():
        raise UserError(f"no folder {config.folder}; expected one to test in; make it first")


def _folder(folder: str, what: str = "store") -> None:
    """A store or a coder is a folder there; a URL is none."""
    if "://" not in folder and not Path(folder).is_dir():
        raise UserError(f"found no {what} at {folder}; expected its folder; check the path")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "harvest": _harvest,
    "train": _train,
    "evaluate": _evaluate,
    "export": _run,
    "report": _run,
    "dashboard": _run,
    "compare": _compare,
    "import_coder": _import_coder,
    "verify": _verify,
    "selftest": _selftest,
}
