"""The language model that a store says it was harvested from."""

from typing import Any, cast

import torch
from omegaconf import OmegaConf

from sae_dist.common.errors import UserError
from sae_dist.lm import LM, LMConfig, load_lm


def load_harvested(harvested: dict[str, Any], name: str | None, device: torch.device) -> LM:
    """Load the language model of a store's provenance, from `name` if that is where it is now.

    Raises UserError when its weights are not those that were harvested.
    """
    expected = harvested["commit"]
    known = {key: value for key, value in harvested.items() if key != "commit"}
    if name is not None:
        known["name"] = name
    same = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LMConfig), known))
    lm = load_lm(cast(LMConfig, same), device)
    if lm.revision != expected:
        raise UserError(
            f"{lm.config.name} is at {lm.revision}, but the store was harvested at {expected}; "
            "give the same weights with lm_name=…, or go without the LM (evaluate: lm_sequences=0)"
        )
    return lm
