"""The language model that a store says it was harvested from."""

from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.common.errors import UserError
from sae_dist.lm import LM, LMConfig, load_lm


def load_harvested(
    harvested: dict[str, Any],
    name: str | None,
    device: torch.device,
    *,
    trust_remote_code: bool,
) -> LM:
    """Load the language model of a store's provenance, from `name` if that is where it is now.

    A store that wants the model's own code run gets it only with `trust_remote_code`. Raises
    UserError then, and when the weights are not those that were harvested.
    """
    expected = harvested["commit"]
    lm = load_lm(_config(harvested, name, trust_remote_code), device)
    if lm.revision != expected:
        raise UserError(
            f"{lm.config.name} is at {lm.revision}, but the store was harvested at {expected}; "
            "give the same weights with lm_name=…, or go without the LM (evaluate: lm_sequences=0)"
        )
    return lm


def _config(harvested: dict[str, Any], name: str | None, trust_remote_code: bool) -> LMConfig:
    """How the language model was held, but for what nobody else may decide: whose code is run."""
    known = {key: value for key, value in harvested.items() if key != "commit"}
    if name is not None:
        known["name"] = name
    wants_code = bool(known.pop("trust_remote_code", False))
    if wants_code and not trust_remote_code:
        raise UserError(
            f"the store's language model {known.get('name')} was harvested with code of its own; "
            "expected your leave: set lm_trust_remote_code=true if you trust it, or go without the "
            "LM (evaluate: lm_sequences=0)"
        )
    known["trust_remote_code"] = wants_code
    try:
        same = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LMConfig), known))
    except OmegaConfBaseException as error:
        raise UserError(
            f"found no language model in the store's manifest ({str(error).splitlines()[0]}); "
            "go without the LM (evaluate: lm_sequences=0)"
        ) from error
    return cast(LMConfig, same)
