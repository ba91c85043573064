"""Harvest again what is bad in a store, and nothing else."""

import os
from typing import Any

import torch
from accelerate import Accelerator

from sae_dist.apps.harvested import load_harvested
from sae_dist.common.errors import UserError
from sae_dist.common.log import say
from sae_dist.config import VerifyConfig
from sae_dist.harvest import HarvestLoopConfig, Processes, harvest
from sae_dist.lm import LM, Capture, resolve, truncate
from sae_dist.store import StoreWriter
from sae_dist.store.repair import (
    Plan,
    clear_aside,
    mend_commits,
    mend_records,
    mend_tokens,
    plan_repair,
    seal_again,
    set_aside,
)
from sae_dist.store.verify import Audit
from sae_dist.text import Fingerprint, TextConfig, documents, pack


def repair(config: VerifyConfig, audit: Audit) -> None:
    """Mend what an audit found; may be killed and started again at any moment.

    Raises UserError, before anything is changed, when the store does not say which language model
    and text it came from, or these are not what they were.
    """
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(f"repair=true on {world} processes; expected one; start it with python")
    plan = plan_repair(audit)
    lm = None
    if plan.bad_tokens or (plan.bad_units and plan.is_complete):
        lm = _lm(config, plan)
    mend_records(plan)
    if plan.bad_tokens and lm is not None:
        mend_tokens(plan, _tokens(config, plan, lm)[0])
    mend_commits(plan)
    if plan.bad_units:
        say(f"setting aside {len(plan.bad_units)} units, first {plan.bad_units[0]}")
        set_aside(plan)
    if not plan.is_complete:
        clear_aside(plan)
        say("the store is not sealed: start its harvest again to go on")
        return
    if plan.bad_units and lm is not None:
        _harvest(config, plan, lm)
    if not seal_again(plan):
        say(
            "warning: the new activations differ from those of before (another device or library); "
            "the store is whole, but runs on it cannot be resumed"
        )


def _lm(config: VerifyConfig, plan: Plan) -> LM:
    provenance = plan.settings.provenance
    if missing := [key for key in ("lm", "text", "batch_sequences") if key not in provenance]:
        raise UserError(
            f"found no {missing[0]!r} in the provenance of {plan.root}; expected a harvested "
            "store; restore the files named above from a copy, or write the store again"
        )
    if plan.bad_units and provenance["lm"].get("tensor", 1) > 1:
        raise UserError(
            f"found activations of an LM sliced by lm.tensor={provenance['lm']['tensor']}; "
            "expected one process a model, as others round differently; restore the files named "
            "above from a copy, or write the store again"
        )
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    return load_harvested(
        provenance["lm"],
        config.lm_name,
        device,
        trust_remote_code=config.lm_trust_remote_code,
    )


def _tokens(config: VerifyConfig, plan: Plan, lm: LM) -> Any:
    text = TextConfig(**plan.settings.provenance["text"])
    text.path = config.text_path or text.path
    fingerprint = Fingerprint()
    limit = plan.tokens.num_sequences * text.sequence_length
    blocks = pack(documents(text), lm.tokenizer, text, num_tokens=limit, fingerprint=fingerprint)
    return blocks, lambda: fingerprint.to_dict(text)


def _harvest(config: VerifyConfig, plan: Plan, lm: LM) -> None:
    sites = [resolve(lm.model, name) for name in plan.settings.widths]
    truncate(lm.model, sites)
    loop = HarvestLoopConfig(batch_sequences=plan.settings.provenance["batch_sequences"])
    harvest(
        StoreWriter.open(plan.root),
        Capture(lm.model, sites),
        lambda: _tokens(config, plan, lm),
        loop,
        Processes(0, 1, next(lm.model.parameters()).device),
    )
