r"""Train a ladder of sparse coders on a store of activations, or on the decoder of another coder.

    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME +sweep=width_ladder
    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME coder=topk coder.k=64
    python launch/train.py +experiment=meta_sae store=coder:runs/NAME/coders/RUNG run=META
    python launch/train.py store=live run=NAME harvest.lm=pythia_70m harvest.text=fineweb \
        harvest.sites=[resid_post.3] harvest.tokens=100M

With `store=live` the language model runs beside training and nothing is stored (docs/live.md).

Start the same command again to go on where it stopped, on any number of processes.
"""

import itertools
import sys
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from sae_dist.apps import cli
from sae_dist.apps.live import LIVE, asked_harvest, open_live
from sae_dist.apps.runs import run_folder
from sae_dist.apps.sources import open_source
from sae_dist.coders import Form, Kind
from sae_dist.common.disk import tell_unwritten
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.common.log import say
from sae_dist.config import TrainConfig
from sae_dist.parallel import start_world
from sae_dist.stream import ActivationSource
from sae_dist.train import (
    REQUEUE,
    Preempted,
    RungConfig,
    TrainingRun,
    Watch,
    check_alike,
    ending_signals,
)

_SHOWN = (  # by every rung's name
    *("coder", "coder.num_latents", "coder.k", "coder.sparsity_coefficient", "coder.target_l0"),
    *("site", "target", "init_from"),
)


def main() -> None:
    """The command."""
    cli.run(train_command, "train", __doc__ or "")


def train_command(config: TrainConfig) -> None:
    """Train as `config` says; called by every process that `torchrun` started."""
    folder = run_folder(config.runs, config.run)
    config.harvest = asked_harvest(config.store, sys.argv[1:])
    try:
        with (
            start_world() as world,
            ending_signals(),  # to the end: torchrun sends one to all when a process has failed
            Watch(world, config.watch) as watch,
            tell_unwritten(folder),  # before the watch tells the others
        ):
            source: ActivationSource
            if config.store == LIVE:
                num_steps = config.tokens // config.batch_tokens
                source = open_live(config.harvest, world.device, num_steps)
            else:
                source = open_source(config.store, config.max_shard_gib)
            check_alike(world, config, source)
            rungs = chosen_rungs(config, sys.argv[1:], list(source.widths))
            training = TrainingRun(config, rungs, source, world, folder, watch)
            if world.rank == 0:  # only now: a changed run was refused
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / "config.yaml", OmegaConf.to_yaml(config).encode())
            training.run()
    except Preempted as ending:
        say(str(ending))
        sys.exit(REQUEUE)


def chosen_rungs(config: TrainConfig, overrides: list[str], sites: list[str]) -> list[RungConfig]:
    """Those of `expand` that `rungs` picks, or all."""
    return _pick(expand(config, overrides, sites), config.rungs)


def expand(config: TrainConfig, overrides: list[str], sites: list[str]) -> list[RungConfig]:
    """The rungs that a training configuration asks for, each with a name that tells it apart.

    Each rung of a sweep is composed anew from the command line's overrides and its own.

    Args:
        config: as composed from `overrides`.
        overrides: the command line's.
        sites: of the store; a single one is the default.
    """
    if not config.sweep.grids:
        return [_rung(config, {}, sites)]
    rungs: list[RungConfig] = []
    composed: dict[tuple[str, ...], TrainConfig] = {}
    for grid in config.sweep.grids:
        values = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
        swept = [key for key in values if len(values[key]) > 1 and key not in _SHOWN]
        for combination in itertools.product(*values.values()):
            choice = dict(zip(values, combination, strict=True))
            places = {key: choice[key] for key in ("site", "target") if key in choice}
            own = tuple(f"{key}={choice[key]}" for key in choice if key not in places)
            if own not in composed:  # where a rung reads and writes changes nothing else of it
                composed[own] = cli.to_dataclass(cli.compose_config("train", [*overrides, *own]))
            rung = replace(composed[own], **places)
            rungs.append(_rung(rung, {key: choice[key] for key in swept}, sites))
    return rungs


def _rung(config: TrainConfig, swept: dict[str, Any], sites: list[str]) -> RungConfig:
    site = config.site or (sites[0] if len(sites) == 1 else None)
    if site is None:
        raise UserError(f"the store has sites {', '.join(sites)}: choose with site=…")
    target = config.target or site
    if config.target is None and config.coder.form is not Form.autoencoder:
        raise UserError(f"a {config.coder.form} needs target=… beside site={site}")
    if target != site and config.coder.form is Form.autoencoder:
        raise UserError(f"an autoencoder reconstructs its own input: drop target={target}")
    return RungConfig(
        name=_name(config, swept, site),
        site=site,
        target=target,
        init_from=config.init_from,
        coder=config.coder,
        optim=config.optim,
        parallel=config.parallel,
    )


def _name(config: TrainConfig, swept: dict[str, Any], site: str) -> str:
    coder = config.coder
    kind = coder.kind if coder.form is Form.autoencoder else f"{coder.kind}_{coder.form}"
    if coder.kind is not Kind.jumprelu:
        sparsity = f"k{coder.k}"
    elif coder.target_l0 is not None:
        sparsity = f"l0_{coder.target_l0:g}"
    else:
        sparsity = f"lambda{coder.sparsity_coefficient:g}"
    others = [f"{key.rpartition('.')[2]}{value}" for key, value in swept.items()]
    return "-".join([kind, str(coder.num_latents), sparsity, site, *others])


def _pick(rungs: list[RungConfig], numbers: list[int] | None) -> list[RungConfig]:
    if numbers is None:
        return rungs
    if not numbers or not all(0 <= number < len(rungs) for number in numbers):
        raise UserError(f"rungs={numbers}; the sweep has rungs 0 to {len(rungs) - 1}")
    return [rungs[number] for number in numbers]
