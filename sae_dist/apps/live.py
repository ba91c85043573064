"""`store=live`: the language model that training, and later evaluation, reads from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.apps.harvested import load_harvested
from sae_dist.apps.pinned import on_one, pinned_text
from sae_dist.apps.runs import finished_run
from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.config import EvaluateConfig, HarvestConfig
from sae_dist.live import LiveActivations, check_live
from sae_dist.lm import LM, compile_layers, foresee, load_lm, resolve, truncate
from sae_dist.text import documents


def open_live(
    harvest: dict[str, Any], device: torch.device, run: Path | None = None
) -> LiveActivations:
    """Load the language model that `asked_harvest` names, without the layers that no site needs.

    The text's commit on the Hub, which is written into `harvest`, is that with which the `run` (its
    folder) was started, if it was. Raises UserError, before the weights are loaded, for what their
    configuration and the text's first document tell.
    """
    config = _config(harvest)
    config.text = on_one(lambda: pinned_text(config.text, _started_text(run)))
    harvest["text"] = {**harvest.get("text", {}), "commit": config.text.commit}
    check_live(config.sites, config.lm.tensor, config.writer)
    foresee(config.lm, config.sites, config.text.sequence_length, "harvest.")
    next(documents(config.text))
    lm = load_lm(config.lm, device, key="harvest.lm.name")
    sites = [resolve(lm.model, site) for site in config.sites]
    truncate(lm.model, sites)
    if lm.config.compile:
        compile_layers(lm.model, sites)
    return _activations(config, lm)


def _started_text(run: Path | None) -> dict[str, Any]:
    """How a run's text was asked for, and its commit."""
    if run is None or not (run / "config.yaml").is_file():
        return {}
    harvest = finished_run(str(run.parent), run.name)[1].get("harvest")
    return asdict(_config(harvest).text) if harvest else {}


def open_trained_live(
    coders: dict[str, dict[str, Any]],
    trained: dict[str, Any],
    config: EvaluateConfig,
    device: torch.device,
) -> LiveActivations:
    """The same activations for the evaluation of a run, its language model whole.

    Args:
        coders: the run's, described; they say what language model it was.

    Raises:
        UserError: the language model is not the one it was trained on.
    """
    harvested = next(iter(coders.values()))["about"]["source"]["lm"]
    lm = load_harvested(
        harvested, config.lm_name, device, trust_remote_code=config.lm_trust_remote_code
    )
    return _activations(_config(trained.get("harvest")), lm)


def _activations(config: HarvestConfig, lm: LM) -> LiveActivations:
    return LiveActivations(
        lm,
        list(config.sites),
        config.text,
        config.tokens,
        config.writer,
        config.harvest.batch_sequences,
    )


def _config(harvest: Any) -> HarvestConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(HarvestConfig), harvest)
        made = cast(HarvestConfig, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(
            f"found no harvest in the run's config.yaml ({str(error).splitlines()[0]}); expected "
            "what launch/train.py wrote; restore it"
        ) from error
    validate(made, "harvest.")
    return made
