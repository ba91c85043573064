"""What a command must find before it is worth loading: asked of its settings and of the disk.

These mistakes are the common ones. Each is answered before torch is imported, which takes longer
than all the rest.
"""

from pathlib import Path
from typing import Any, cast

from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.common.errors import UserError
from sae_dist.config import (
    CompareConfig,
    DashboardConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FetchConfig,
    FinetuneConfig,
    HarvestConfig,
    ImportConfig,
    LatentsConfig,
    ReportConfig,
    SelftestConfig,
    Source,
    TrainConfig,
    VerifyConfig,
    place_key,
)
from sae_dist.explain.config import check as check_explanations
from sae_dist.handoff import handoff_named, handoff_names
from sae_dist.latents import rungs_with_latents
from sae_dist.lm.config import local_folder


def check(config: Any) -> None:  # noqa: C901 (a case a command)
    """Raise UserError if a command would refuse its configuration for one of these reasons."""
    match config:
        case HarvestConfig() | FetchConfig():
            local_folder(config.lm)
        case TrainConfig():
            _check_training(config)
        case EvaluateConfig() | LatentsConfig():
            _check_trained(config)
        case FinetuneConfig():
            finished_run(config.runs, config.run)
            if config.run == config.to:
                raise UserError(f"found to={config.to}, the run itself; expected another; name one")
        case CompareConfig():
            for name in config.run:
                finished_run(config.runs, name)
        case ExplainConfig():
            _check_explaining(config)
        case ReportConfig() | DashboardConfig() | ExportConfig():
            _check_finished(config)
        case ImportConfig(to=to) if Path(to).exists():
            raise UserError(f"to={to} exists; expected a new folder; choose another, or remove it")
        case VerifyConfig():
            _require_folder(config.store, "store")
        case SelftestConfig(folder=folder) if not Path(folder).is_dir():
            raise UserError(f"no folder {folder}; expected one to test in; make it first")


def _check_training(config: TrainConfig) -> None:
    run_folder(config.runs, config.run)
    if config.source is Source.live:
        local_folder(cast(HarvestConfig, config.harvest).lm, "harvest.lm.name")
    else:
        key = place_key(config.source)
        _require_folder(getattr(config, key), "coder" if key == "decoder" else key)
    if config.aligned and config.source is not Source.stored:
        raise UserError(
            f"found aligned={config.aligned} beside source={config.source}; expected stores alone "
            "side by side; harvest both language models, or drop it"
        )
    for name, path in config.aligned.items():
        _require_folder(path, f"store aligned.{name}")


def _check_finished(config: ReportConfig | DashboardConfig | ExportConfig) -> None:
    run, _ = finished_run(config.runs, config.run)
    if isinstance(config, ExportConfig) and config.to in handoff_names():
        handoff_named(config.to).rungs(run)


def _check_trained(config: EvaluateConfig | LatentsConfig) -> None:
    names = config.run if isinstance(config.run, list) else [config.run]
    if config.store is None:
        for name in names:
            finished_run(config.runs, name)
    else:  # they may be coders from elsewhere: nothing was trained
        for name in names:
            run_folder(config.runs, name)
        _require_folder(config.store, "store")
    if isinstance(config, LatentsConfig) and config.text.path and config.max_sequences is None:
        raise UserError(
            f"found max_sequences=null beside text.path={config.text.path}; expected how many "
            "sequences of it to read; give a number"
        )


def _check_explaining(config: ExplainConfig) -> None:
    check_explanations(config)
    config.judge.check(config.scorers or [])
    if not rungs_with_latents(folder := run_folder(config.runs, config.run)):
        raise UserError(
            f"found no latents in {folder}; expected those of a run that were watched; sae-dist "
            f"latents run={config.run} does that"
        )


def _require_folder(path: str, what: str) -> None:
    """A store or a coder is a folder there; a URL is none."""
    if "://" not in path and not Path(path).is_dir():
        raise UserError(f"found no {what} at {path}; expected its folder; check the path")
