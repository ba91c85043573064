r"""Train a ladder of sparse coders on a store of activations, or on the decoder of another coder.

    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME +sweep=width_ladder
    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME coder=topk coder.k=64
    python launch/train.py +experiment=meta_sae store=coder:runs/NAME/coders/RUNG run=META
    python launch/train.py store=live run=NAME harvest.lm=pythia_70m harvest.text=fineweb \
        harvest.sites=[resid_post.3] harvest.tokens=100M

With `store=live` the language model runs beside training and nothing is stored (docs/live.md).

Start the same command again to go on where it stopped, on any number of processes.
"""

import sys

from omegaconf import OmegaConf

from sae_dist.apps import command
from sae_dist.apps.asked import LIVE, asked_harvest
from sae_dist.apps.live import open_live
from sae_dist.apps.rungs import chosen_rungs
from sae_dist.apps.runs import run_folder
from sae_dist.apps.sources import open_source
from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.files import write_atomic
from sae_dist.common.log import log_info
from sae_dist.config import TrainConfig
from sae_dist.parallel import start_world
from sae_dist.stream import ActivationSource
from sae_dist.train import (
    REQUEUE,
    Preempted,
    TrainingRun,
    Watch,
    check_alike,
    ending_signals,
)


def main() -> None:
    """The command."""
    command.run("train")


def train_command(config: TrainConfig) -> None:
    """Train as `config` says; called by every process that `torchrun` started."""
    folder = run_folder(config.runs, config.run)
    config.harvest = asked_harvest(config.store, sys.argv[1:])
    try:
        with (
            start_world() as world,
            ending_signals(),  # to the end: torchrun sends one to all when a process has failed
            Watch(world, config.watch) as watch,
            explain_disk_errors(folder),  # before the watch tells the others
        ):
            source: ActivationSource
            if config.store == LIVE:
                source = open_live(config.harvest, world.device, folder)
            else:
                source = open_source(config.store, config.max_shard_gib, config.cache)
            check_alike(world, config, source)
            rungs = chosen_rungs(config, sys.argv[1:], list(source.widths))
            training = TrainingRun(config, rungs, source, world, folder, watch)
            written = folder / "config.yaml"
            is_done = training.step == training.num_steps and written.exists()
            if world.rank == 0 and not is_done:  # only now: a changed run was refused
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(written, OmegaConf.to_yaml(training.config).encode())
            training.run()
    except Preempted as ending:
        log_info(str(ending))
        sys.exit(REQUEUE)
