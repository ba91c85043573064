r"""Measure the coders of a run on the held-out shards of its store.

    sae-dist evaluate run=NAME
    torchrun --nproc-per-node 4 -m sae_dist evaluate run=NAME latent=4
    sae-dist evaluate run=NAME +chat@transfer=gemma_2 \
        transfer.lm_name=FINETUNE transfer.prompts=FILE transfer.finetuned_run=RUN

Writes `runs/NAME/evaluation.json`. A store without a language model (`write_store`) is measured
without the figures that need one; so is a meta-SAE, on all rows of the decoder it was trained on.
After `store=live` the language model reads the held-out sequences anew.
"""

from typing import Any

from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import load_harvested, require_harvested
from sae_dist.apps.runs import coders_of, finished_run, source_of
from sae_dist.apps.sources import open_trained
from sae_dist.apps.transfer import measure_transfer
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.common.errors import UserError
from sae_dist.common.figures import shown
from sae_dist.common.files import write_json
from sae_dist.common.log import log_info
from sae_dist.config import EvaluateConfig
from sae_dist.evaluate import evaluate as measure
from sae_dist.evaluate.config import check
from sae_dist.live import LiveActivations
from sae_dist.lm import LM
from sae_dist.parallel import World, start_world
from sae_dist.stream import ActivationSource


@command
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate as `config` says; one process, or those that `torchrun` started."""
    folder, trained = finished_run(config.runs, config.run)
    where = source_of(trained, config.store, config.run)
    coders = coders_of(folder)
    with start_world() as world:
        check(config, world)
        _check_coders(config, coders)
        source = open_trained(where, coders, config, world.device)
        _check_source(config, source)
        transferred = measure_transfer(config, folder, source, world)
        lm = _lm(config, source, world)
        results = measure(folder, source, lm, config, world) | {"transfer": transferred}
        on_first_rank(None, lambda: write_json(folder / "evaluation.json", results))
    for name, figures in results["rungs"].items():
        log_info(f"  {name}: {_line(figures)}")
    if transferred is not None:
        for name, figures in transferred["rungs"].items():
            here = figures["rollout"]
            fvu, delta = (shown(here[key], ".3f") for key in ("fvu", "delta_loss"))
            log_info(f"  {name} on rollouts: FVU {fvu}, delta loss {delta}")
    log_info(f"figures in {folder / 'evaluation.json'}")
    return results


def _check_coders(config: EvaluateConfig, coders: dict[str, dict[str, Any]]) -> None:
    """Refuse a mesh that some coder cannot be dealt to, before anything is read."""
    for name, description in coders.items():
        num_latents = description["config"]["num_latents"]
        if num_latents % config.latent:
            raise UserError(
                f"latent={config.latent}; expected a divisor of the {num_latents} latents of "
                f"{name}; choose another"
            )


def _check_source(config: EvaluateConfig, source: ActivationSource) -> None:
    """Refuse a language model that is gone or another, and tell of fewer sequences than asked."""
    if _needs_lm(config, source) and not isinstance(source, LiveActivations):
        require_harvested(
            source.about["lm"], config.lm_name, trust_remote_code=config.lm_trust_remote_code
        )
    if config.max_sequences is not None and config.max_sequences > source.num_held_out:
        log_info(
            f"max_sequences={config.max_sequences}: {source.num_held_out} are held out, and all "
            "of them are read"
        )


def _needs_lm(config: EvaluateConfig, source: ActivationSource) -> bool:
    return source.about.get("lm") is not None and config.lm_sequences > 0


def _lm(config: EvaluateConfig, source: ActivationSource, world: World) -> LM | None:
    """The language model the activations came from; None if they came from elsewhere."""
    if not _needs_lm(config, source):
        return None
    if isinstance(source, LiveActivations):
        return source.lm
    return load_harvested(
        source.about["lm"],
        config.lm_name,
        world.device,
        trust_remote_code=config.lm_trust_remote_code,
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
