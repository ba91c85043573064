"""The language model that a store says it was harvested from, or a finetune of it."""

import os
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from sae_dist.apps.runs import as_written
from sae_dist.common.errors import UserError
from sae_dist.lm import (
    LM,
    LMConfig,
    Unembedding,
    find_lm,
    load_lm,
    load_sliced_lm,
    load_tokenizer,
    load_unembeddings,
    load_zero3_lm,
    spread_engine,
)

_KEY = "lm_name"  # of evaluation and repair, that says where the language model is now


def load_harvested(
    harvested: dict[str, Any],
    name: str | None,
    device: torch.device,
    *,
    trust_remote_code: bool,
    num_processes: int = 1,
) -> LM:
    """Load the language model of a store's provenance, from `name` if that is where it is now.

    One that `is_spread` is loaded over `num_processes`, which then run it together. A store that
    wants the model's own code run gets it only with `trust_remote_code`. Raises UserError then, and
    when the weights are not those that were harvested.
    """
    config = require_harvested(harvested, name, trust_remote_code=trust_remote_code)
    if not is_spread(harvested, num_processes):
        return load_lm(replace(config, tensor=1), device, key=_KEY)
    if not told_zero3():
        return load_sliced_lm(replace(config, tensor=num_processes))
    lm = load_zero3_lm(config)
    spread_engine(lm.model, config)  # its hooks gather each layer's weights, whoever calls it
    return lm


def told_zero3() -> bool:
    """Whether accelerate was told to spread a language model over the processes."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def is_spread(harvested: dict[str, Any], num_processes: int) -> bool:
    """Whether so many processes hold the language model together: each sees all its tokens."""
    return num_processes > 1 and (told_zero3() or harvested.get("tensor", 1) > 1)


def require_harvested(
    harvested: dict[str, Any], name: str | None, *, trust_remote_code: bool
) -> LMConfig:
    """What `load_harvested` loads, found to be there and to be it, without reading its weights."""
    config = _config(harvested, name, trust_remote_code)
    found, expected = find_lm(config, _KEY).revision, harvested["commit"]
    if found != expected:
        raise UserError(
            f"{config.name} is at {found}, but the store was harvested at {expected}; "
            "give the same weights with lm_name=…, or go without the LM (evaluate: lm_sequences=0)"
        )
    return config


def load_finetune(
    harvested: dict[str, Any],
    name: str,
    revision: str | None,
    device: torch.device,
    *,
    trust_remote_code: bool,
    gguf_file: str | None = None,
) -> LM:
    """Load another model as the store's was held: dtype, attention, folded norms.

    Its own code is run only with `trust_remote_code`.
    """
    same = _config({**harvested, "trust_remote_code": False}, name, trust_remote_code=False)
    own = replace(same, revision=revision, trust_remote_code=trust_remote_code, gguf_file=gguf_file)
    return load_lm(own, device, key="transfer.lm_name")


def load_harvested_unembeddings(
    harvested: dict[str, Any],
    name: str | None,
    sites: list[str],
    device: torch.device,
    *,
    trust_remote_code: bool,
) -> dict[str, Unembedding | None]:
    """What sites of a store's language model do to its logits, of which no more is read."""
    config = require_harvested(harvested, name, trust_remote_code=trust_remote_code)
    return load_unembeddings(config, sites, device, key=_KEY)


def load_harvested_tokenizer(
    harvested: dict[str, Any], name: str | None, *, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The tokenizer of a store's language model; see `load_harvested`."""
    return load_tokenizer(_config(harvested, name, trust_remote_code), key=_KEY)


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
    remedy = "go without the LM (evaluate: lm_sequences=0)"
    return as_written(LMConfig, known, "no language model in the store's manifest", remedy)
