r"""Find out what each latent of a run's coders fires on.

    sae-dist latents run=NAME
    sae-dist latents run=NAME "rungs=[topk-*]" text=pile max_sequences=1024
    torchrun --nproc-per-node 4 -m sae_dist latents run=NAME parallel.latent=4

Reads the held-out sequences once and writes `runs/NAME/latents` (docs/latents.md): of every latent
how often it fires, its strongest examples and some of all strengths, the tokens whose logits it
raises and lowers, and the latents that are like it; and of all this pages, which open from disk:
`runs/NAME/latents/index.html`. Started again, it goes on where it stopped.
With `text.path`, or a file of `conf/text/` as above, the run's language model reads that text
instead. A run in training is read by its newest checkpoint. A store without a language model
(`write_store`) gives no logits.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from sae_dist.apps.checkpointed import coders_to_read
from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import (
    load_harvested,
    load_harvested_unembeddings,
    require_harvested,
)
from sae_dist.apps.pages import write_pages
from sae_dist.apps.pinned import on_one, pinned_text
from sae_dist.apps.runs import coders_of, finished_run, source_of
from sae_dist.apps.sources import open_trained
from sae_dist.common.errors import UserError
from sae_dist.common.joint import parts_of
from sae_dist.config import LatentsConfig, Source
from sae_dist.latents import Unembed, watch
from sae_dist.latents.sequences import Sequences
from sae_dist.live import FreshText, LiveActivations
from sae_dist.lm import foresee, unembeddings
from sae_dist.parallel import start_world


@command
def latents(config: LatentsConfig) -> list[str]:
    """Watch latents as `config` says; one process, or those that `torchrun` started.

    Returns:
        the rungs that were asked for, which `sae_dist.latents.Latents` reads.
    """
    folder, trained = finished_run(config.runs, config.run)
    with start_world() as world:
        candidates = coders_to_read(folder, config.step, world)
        if config.text.path:
            sites = sorted({part for one in candidates for part in parts_of(one.site)})
            source: Sequences = _fresh(config, folder, trained, sites, world.device)
        else:
            source = _held_out(config, folder, trained, world.device)
        rungs = watch(candidates, source, _unembed(config, source, world.device), config, world)
        if world.rank == 0:
            trust = config.lm_trust_remote_code
            write_pages(folder, config.lm_name, trust_remote_code=trust)
    return rungs


def _held_out(
    config: LatentsConfig, folder: Path, trained: dict[str, Any], device: torch.device
) -> Any:
    where = source_of(trained, config.store, config.run)
    coders = coders_of(folder) if where.source is Source.live else {}
    return open_trained(where, coders, config, device)


def _fresh(
    config: LatentsConfig,
    folder: Path,
    trained: dict[str, Any],
    sites: list[str],
    device: torch.device,
) -> FreshText:
    """The text that is asked for, read by the language model of the run."""
    harvested = _harvested(config, folder, trained, device)
    lm = load_harvested(
        harvested, config.lm_name, device, trust_remote_code=config.lm_trust_remote_code
    )
    text = on_one(lambda: pinned_text(config.text, {}))
    foresee(lm.config, sites, text.sequence_length, "")
    size = max(1, config.batch_tokens // text.sequence_length)
    return FreshText(lm, sites, text, config.max_sequences or 0, size)


def _harvested(
    config: LatentsConfig, folder: Path, trained: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """What is said of the run's language model: by its coders, or while it trains by its store."""
    if next((folder / "coders").glob("*/coder.json"), None):
        sources = [about["about"].get("source") or {} for about in coders_of(folder).values()]
    else:
        sources = [_held_out(config, folder, trained, device).about]
    if not (harvested := sources[0].get("lm")):
        raise UserError(
            f"found no language model that run={config.run} read; expected one to read text.path="
            f"{config.text.path}; leave text out"
        )
    return dict(harvested)


def _unembed(config: LatentsConfig, source: Sequences, device: torch.device) -> Unembed | None:
    """Of the language model the activations came from; None if they came from elsewhere."""
    if isinstance(source, LiveActivations | FreshText):
        return partial(unembeddings, source.lm.model)
    if not (harvested := source.about.get("lm")):
        return None
    trust = config.lm_trust_remote_code
    require_harvested(harvested, config.lm_name, trust_remote_code=trust)  # before hours of reading
    return lambda sites: load_harvested_unembeddings(
        harvested, config.lm_name, sites, device, trust_remote_code=trust
    )


main = entry("latents")
