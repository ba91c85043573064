r"""Measure the coders of a run on the held-out shards of its store.

    sae-dist evaluate run=NAME
    torchrun --nproc-per-node 4 -m sae_dist evaluate run=NAME parallel.latent=4
    sae-dist evaluate run=NAME +chat@transfer=gemma_2 \
        transfer.lm_name=FINETUNE transfer.prompts=FILE transfer.finetuned_run=RUN
    accelerate launch --config_file launch/accelerate/zero3.yaml -m sae_dist evaluate run=NAME

Writes `runs/NAME/evaluation/RUNG/MEASURE.json` as each is done; started again, it goes on where it
stopped. `measures=[…]` and `rungs=[…]` take some; `"run=[a,b]"` also compares coders of several
runs on one store. A run in training is measured by its newest checkpoint. A store without a
language model (`write_store`) is measured without the figures that need one; so is a meta-SAE, on
all rows of the decoder it was trained on. After `store=live` the language model reads the held-out
sequences anew. One that is larger than a device is loaded over all processes, as it was harvested:
with `lm.tensor`, or by ZeRO-3, as in the last line above.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sae_dist.apps.checkpointed import coders_to_read
from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import is_spread, load_harvested, require_harvested
from sae_dist.apps.runs import coders_of, finished_run, source_of
from sae_dist.apps.sources import open_trained
from sae_dist.apps.transfer import measure_transfer
from sae_dist.common.errors import UserError
from sae_dist.common.figures import shown
from sae_dist.common.log import log_info
from sae_dist.config import EvaluateConfig, Source, SourceConfig
from sae_dist.evaluate import EvaluationConfig
from sae_dist.evaluate import evaluate as measure
from sae_dist.evaluate.config import check
from sae_dist.live import LiveActivations
from sae_dist.lm import LM
from sae_dist.parallel import SharingConfig, World, start_world
from sae_dist.stream import ActivationSource


@command
def evaluate(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Evaluate as `config` says; one process, or those that `torchrun` started.

    Returns:
        of each run what `read_evaluation` reads.
    """
    runs = [finished_run(config.runs, name) for name in config.run]
    where = _source(config, [trained for _, trained in runs])
    with start_world() as world:
        check(config, world)
        candidates = [c for folder, _ in runs for c in coders_to_read(folder, config.step, world)]
        coders = coders_of(runs[0][0]) if where.source is Source.live else {}
        source = open_trained(where, coders, config, world.device)
        _check_source(config, source)
        if _needs_lm(config, source) and is_spread(source.about["lm"], world.size):
            config = replace(
                config, parallel=SharingConfig(latent=world.size)
            )  # all run it together
        transferred = [measure_transfer(config, folder, source, world) for folder, _ in runs]
        results = measure(candidates, source, _lm(config, source, world), config, world)
    for result in results:
        for name, figures in result["rungs"].items():
            log_info(f"  {name}: {_line(figures)}")
    for row in (row for found in transferred if found for row in found["rows"]):
        if row["part"] == "rollout":
            fvu, delta = (shown(row[key], ".3f") for key in ("fvu", "delta_loss"))
            log_info(f"  {row['name']} on rollouts: FVU {fvu}, delta loss {delta}")
    log_info(f"figures in {', '.join(str(folder / 'evaluation') for folder, _ in runs)}")
    return results


def _source(config: EvaluateConfig, trained: list[dict[str, Any]]) -> SourceConfig:
    """The one source of all runs."""
    named = zip(trained, config.run, strict=True)
    first, *others = (source_of(own, config.store, name) for own, name in named)
    if any(other != first for other in others):
        raise UserError(
            f"found run={config.run} trained on different activations; expected one store, so that "
            "their coders can be compared; evaluate them one by one, or name it with store=…"
        )
    return first


def _check_source(config: EvaluateConfig, source: ActivationSource) -> None:
    """Refuse a language model that is gone or another, and tell of fewer sequences than asked."""
    if _needs_lm(config, source) and not isinstance(source, LiveActivations):
        require_harvested(
            source.about["lm"], config.lm_name, trust_remote_code=config.lm_trust_remote_code
        )
    asked = config.max_sequences
    if asked not in (None, EvaluationConfig().max_sequences) and asked > source.num_held_out:
        log_info(
            f"max_sequences={asked}: {source.num_held_out} are held out, and all of them are read"
        )


def _needs_lm(config: EvaluateConfig, source: ActivationSource) -> bool:
    return source.about.get("lm") is not None and config.lm_sequences > 0


def _lm(config: EvaluateConfig, source: ActivationSource, world: World) -> Callable[[], LM] | None:
    """Loads the language model the activations came from; None if they came from elsewhere."""
    if not _needs_lm(config, source):
        return None
    if isinstance(source, LiveActivations):
        return lambda: source.lm
    return lambda: load_harvested(
        source.about["lm"],
        config.lm_name,
        world.device,
        trust_remote_code=config.lm_trust_remote_code,
        num_processes=world.size,
    )


def _line(figures: dict[str, Any]) -> str:
    said = {
        "L0": ("l0", ".1f"),
        "FVU": ("fvu", ".3f"),
        "dead": ("dead_share", ".1%"),
        "delta loss": ("delta_loss", ".3f"),
        "loss recovered": ("loss_recovered", ".1%"),
    }
    there = {word: (key, form) for word, (key, form) in said.items() if key in figures}
    return ", ".join(f"{word} {shown(figures[key], form)}" for word, (key, form) in there.items())


main = entry("evaluate")
