"""A language model beside a training: what it is asked for, and its activations."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sae_dist.apps.harvested import load_harvested
from sae_dist.apps.pinned import on_one, pinned_text
from sae_dist.apps.runs import started_text
from sae_dist.config import HarvestConfig, TrainedConfig
from sae_dist.evaluate import EvaluationConfig
from sae_dist.evaluate.in_training import lm_figures
from sae_dist.live import PASSING, LiveActivations, check_live
from sae_dist.lm import LM, compile_layers, expand_sites, foresee, load_lm, resolve, truncate
from sae_dist.text import documents, pin
from sae_dist.train import Evaluate, Rung


def settled(config: HarvestConfig, run: Path) -> HarvestConfig:
    """What is asked for as it is written into a run's folder: whole sites, the text's commit."""
    text = on_one(lambda: pinned_text(config.text, started_text(run)))
    return replace(config, sites=expand_sites(config.lm, config.sites), text=text)


def open_live(
    config: HarvestConfig, device: torch.device, *, whole_lm: bool = False
) -> LiveActivations:
    """Load a language model; the layers that no site needs are kept with `whole_lm` alone."""
    check_live(config.sites, config.lm.tensor, config.writer)
    foresee(config.lm, config.sites, config.text.sequence_length, "harvest.")
    next(documents(config.text))
    lm = load_lm(config.lm, device, key="harvest.lm.name")
    found = [resolve(lm.model, site) for site in config.sites]
    if not whole_lm:
        truncate(lm.model, found)
    if lm.config.compile:
        compile_layers(lm.model, found)
    return _live(config, lm)


def live_lm_figures(source: LiveActivations, config: EvaluationConfig) -> Evaluate:
    """`lm_figures` of the language model that training reads, while it makes no activations."""
    measure = lm_figures(source, lambda: source.lm, config)

    def evaluate(rungs: Sequence[Rung], step: int) -> dict[str, dict[str, Any]]:
        with PASSING:
            return measure(rungs, step)

    return evaluate


def open_trained_live(
    harvest: HarvestConfig, harvested: dict[str, Any], config: TrainedConfig, device: torch.device
) -> LiveActivations:
    """The same for an evaluation, with the language model whole, which must be the `harvested` one.

    Raises UserError if it is not.
    """
    lm = load_harvested(
        harvested, config.lm_name, device, trust_remote_code=config.lm_trust_remote_code
    )
    return _live(harvest, lm)


def _live(config: HarvestConfig, lm: LM) -> LiveActivations:
    size = config.harvest.batch_sequences
    text = pin(config.text)
    return LiveActivations(lm, list(config.sites), text, config.tokens, config.writer, size)
