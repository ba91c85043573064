r"""Measure the coders of a run on the held-out shards of its store.

    python launch/evaluate.py run=NAME
    torchrun --nproc-per-node 4 launch/evaluate.py run=NAME latent=4
    python launch/evaluate.py run=NAME +chat@transfer=gemma_2 \
        transfer.lm_name=FINETUNE transfer.prompts=FILE transfer.finetuned_run=RUN

Writes `runs/NAME/evaluation.json`. A store without a language model (`write_store`) is measured
without the figures that need one; so is a meta-SAE, on all rows of the decoder it was trained on.
After `store=live` the language model reads the held-out sequences anew.
"""

from typing import Any

from sae_dist.apps import command
from sae_dist.apps.asked import LIVE
from sae_dist.apps.harvested import load_harvested
from sae_dist.apps.live import open_trained_live
from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.apps.sources import open_source
from sae_dist.apps.transfer import measure_transfer
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.files import write_json
from sae_dist.common.log import say
from sae_dist.config import EvaluateConfig
from sae_dist.evaluate import evaluate
from sae_dist.live import LiveActivations
from sae_dist.lm import LM
from sae_dist.parallel import World, start_world
from sae_dist.stream import ActivationSource


def main() -> None:
    """The command."""
    command.run("evaluate")


def evaluate_command(config: EvaluateConfig) -> None:
    """Evaluate as `config` says; one process, or those that `torchrun` started."""
    folder = run_folder(config.runs, config.run)  # of coders from elsewhere, nothing was trained
    trained = {} if config.store else finished_run(config.runs, config.run)[1]
    store = config.store or trained["store"]
    with start_world() as world:
        source: ActivationSource
        if store == LIVE:
            source = open_trained_live(folder, trained, config, world.device)
        else:
            source = open_source(store, config.max_shard_gib)
        transferred = measure_transfer(config, folder, source, world)
        lm = _lm(config, source, world)
        results = evaluate(folder, source, lm, config, world) | {"transfer": transferred}
        on_first_rank(None, lambda: write_json(folder / "evaluation.json", results))
    for name, figures in results["rungs"].items():
        say(f"  {name}: {_line(figures)}")
    if transferred is not None:
        for name, figures in transferred["rungs"].items():
            here = figures["rollout"]
            say(f"  {name} on rollouts: FVU {here['fvu']:.3f}, delta loss {here['delta_loss']:.3f}")
    say(f"figures in {folder / 'evaluation.json'}")


def _lm(config: EvaluateConfig, source: ActivationSource, world: World) -> LM | None:
    """The language model the activations came from; None if they came from elsewhere."""
    harvested = source.about.get("lm")
    if harvested is None or config.lm_sequences == 0:
        return None
    if isinstance(source, LiveActivations):
        return source.lm
    return load_harvested(
        harvested, config.lm_name, world.device, trust_remote_code=config.lm_trust_remote_code
    )


def _line(figures: dict[str, Any]) -> str:
    line = f"L0 {figures['l0']:.1f}, FVU {figures['fvu']:.3f}, dead {figures['dead_share']:.1%}"
    if "delta_loss" in figures:
        line += f", delta loss {figures['delta_loss']:.3f}"
    if figures.get("loss_recovered") is not None:
        line += f", loss recovered {figures['loss_recovered']:.1%}"
    return line
