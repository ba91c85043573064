r"""Train a ladder of sparse coders on a store of activations, or on the decoder of another coder.

    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME +sweep=width_ladder
    torchrun --nproc-per-node 8 launch/train.py store=PATH run=NAME coder=topk expansion=32
    sae-dist train store=PATH run=NAME coder=topk site=resid_post.*
    sae-dist train +experiment=meta_sae decoder=runs/NAME/coders/RUNG run=META
    sae-dist train store=live run=NAME harvest.lm=pythia_70m harvest.text=fineweb \
        harvest.sites=[resid_post.3] harvest.tokens=100M

With `store=live`, short for `source=live`, the language model runs beside training and nothing is
stored (docs/live.md).

Start the same command again to go on where it stopped, on any number of processes.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import OmegaConf

from sae_dist.apps.command import command, entry
from sae_dist.apps.rungs import lay_out
from sae_dist.apps.runs import run_folder
from sae_dist.apps.sources import open_source
from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic
from sae_dist.config import Source, TrainConfig
from sae_dist.evaluate import EvaluationConfig
from sae_dist.parallel import World, start_world
from sae_dist.stream import ActivationSource
from sae_dist.train import Evaluate, TrainingRun, Watch, check_alike, ending_signals

if TYPE_CHECKING:
    from sae_dist.live import LiveActivations


@command
def train(config: TrainConfig) -> Path:
    """Train a ladder; called by every process that `torchrun` started, or by one alone.

    Returns:
        The run's folder; its coders are in `coders/`.

    Raises:
        Preempted: a signal asked to end, and a checkpoint has been saved.
    """
    folder = run_folder(config.runs, config.run)
    with (
        start_world() as world,
        ending_signals(),  # to the end: torchrun sends one to all when a process has failed
        Watch(world, config.watch) as watch,
        explain_disk_errors(folder),  # before the watch tells the others
    ):
        if config.harvest is not None:
            from sae_dist.apps.live import settled  # with transformers, seconds a process

            config = replace(config, harvest=settled(config.harvest, folder))
        whole_lm = config.evaluate_lm_sequences > 0
        source = open_source(config, world.device, whole_lm=whole_lm)
        check_alike(world, config, source)
        rungs = lay_out(config, source.widths)
        measure = _with_lm(config, source, world)
        training = TrainingRun(config, rungs, source, world, folder, watch, measure)
        written = folder / "config.yaml"
        is_done = training.step == training.num_steps and written.exists()
        if world.rank == 0 and not is_done:  # only now: a changed run was refused
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(written, OmegaConf.to_yaml(training.config).encode())
        training.run()
    return folder


def _with_lm(config: TrainConfig, source: ActivationSource, world: World) -> Evaluate | None:
    """What measures the language model's loss while training, if that is asked for."""
    if not config.evaluate_lm_sequences:
        return None
    harvested, told = (
        source.about.get("lm"),
        f"evaluate_lm_sequences={config.evaluate_lm_sequences}",
    )
    if harvested is None:
        raise UserError(f"found {told}, but no language model's activations; set it to 0")
    if config.log.evaluate_every_steps is None:
        raise UserError(f"found {told} without log.evaluate_every_steps; expected both; set that")
    asked = EvaluationConfig(lm_sequences=config.evaluate_lm_sequences)
    if config.source is Source.live:
        from sae_dist.apps.live import live_lm_figures

        return live_lm_figures(cast("LiveActivations", source), asked)
    from sae_dist.apps.harvested import load_harvested  # with transformers, seconds a process
    from sae_dist.evaluate.in_training import lm_figures

    return lm_figures(
        source,
        lambda: load_harvested(harvested, None, world.device, trust_remote_code=False),
        asked,
    )


main = entry("train")
