"""`store=live`: the language model that training, and later evaluation, reads from."""

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.apps.harvested import load_harvested
from sae_dist.coders import describe_coder
from sae_dist.common.errors import UserError
from sae_dist.common.settings import validate
from sae_dist.config import EvaluateConfig, HarvestConfig
from sae_dist.live import LiveActivations
from sae_dist.lm import LM, load_lm, resolve, truncate
from sae_dist.text import pin


def open_live(harvest: dict[str, Any], device: torch.device) -> LiveActivations:
    """Load the language model that `asked_harvest` names, without the layers that no site needs."""
    config = _config(harvest)
    lm = load_lm(config.lm, device)
    truncate(lm.model, [resolve(lm.model, site) for site in config.sites])
    return _activations(config, lm)


def open_trained_live(
    folder: Path, trained: dict[str, Any], config: EvaluateConfig, device: torch.device
) -> LiveActivations:
    """The same activations for the evaluation of a run, its language model whole.

    Raises:
        UserError: the run has no coders, or the language model is not the one it was trained on.
    """
    coders = sorted(path.parent for path in (folder / "coders").glob("*/coder.json"))
    if not coders:
        raise UserError(f"no coders in {folder / 'coders'}; expected a finished run: train first")
    harvested = describe_coder(coders[0])["about"]["source"]["lm"]
    lm = load_harvested(
        harvested, config.lm_name, device, trust_remote_code=config.lm_trust_remote_code
    )
    return _activations(_config(trained.get("harvest")), lm)


def _activations(config: HarvestConfig, lm: LM) -> LiveActivations:
    return LiveActivations(
        lm,
        list(config.sites),
        pin(config.text),
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
