"""What a command must find before it is worth loading: asked of its settings and of the disk.

These mistakes are the common ones. Each is answered before torch is imported, which takes longer
than all the rest.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_dist.apps.asked import LIVE, asked_harvest, asked_plan
from sae_dist.apps.rungs import check_sweep
from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.common.errors import UserError
from sae_dist.config import (
    CompareConfig,
    EvaluateConfig,
    HarvestConfig,
    ImportConfig,
    SelftestConfig,
    TrainConfig,
    VerifyConfig,
)
from sae_dist.lm.config import local_folder

CODER = "coder:"  # before the folder of a coder whose decoder is trained on


def check(name: str, config: Any) -> None:
    """Raise UserError if the command `name` would refuse `config` for one of these reasons."""
    if name in _CHECKS:
        _CHECKS[name](config)


def _plan(config: Any) -> None:
    asked_plan(sys.argv[1:])


def _harvest(config: HarvestConfig) -> None:
    local_folder(config.lm)


def _train(config: TrainConfig) -> None:
    run_folder(config.runs, config.run)
    check_sweep(config.sweep)
    asked_harvest(config.store, sys.argv[1:])
    _source(config.store)


def _evaluate(config: EvaluateConfig) -> None:
    for name in config.run:
        if config.store is None:
            finished_run(config.runs, name)
        else:  # of coders from elsewhere, nothing was trained
            run_folder(config.runs, name)
    if config.store is not None:
        _source(config.store)


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
    _source(config.store)


def _selftest(config: SelftestConfig) -> None:
    if not Path(config.folder).is_dir():
        raise UserError(f"no folder {config.folder}; expected one to test in; make it first")


def _source(store: str) -> None:
    """A store, or `coder:FOLDER`, is a folder; `live` and a URL are none."""
    what = "coder" if store.startswith(CODER) else "store"
    folder = store.removeprefix(CODER)
    if store != LIVE and "://" not in folder and not Path(folder).is_dir():
        raise UserError(f"found no {what} at {folder}; expected its folder; check the path")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "plan": _plan,
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
