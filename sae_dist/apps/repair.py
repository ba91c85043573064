"""Harvest again what is bad in a store, and nothing else."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator

from sae_dist.apps.harvest import read_text
from sae_dist.apps.harvested import load_harvested
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.config import VerifyConfig
from sae_dist.harvest import StagingBuffer, batches_of
from sae_dist.lm import LM, Capture, compile_layers, resolve, truncate
from sae_dist.store import Audit, Settings
from sae_dist.store.verify import Repair
from sae_dist.text import TextConfig


def repair(config: VerifyConfig, audit: Audit) -> None:
    """Mend what an audit found; may be killed and started again at any moment.

    Raises UserError, before anything is changed, when the store does not say which language model
    and text it came from, or these are not what they were.
    """
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(f"repair=true on {world} processes; expected one; start it with python")
    store = Repair(audit)
    if not store.is_sealed:
        store.withdraw()
        log_info("the store is not sealed: start its harvest again to go on")
        return
    lm = _load_lm(config, store.manifest.settings) if store.bad_units else None
    store.mend_records()
    if lm is not None:
        _harvest(config, store, lm)
    if not store.finish():
        log_info(
            "warning: the new activations differ from those of before (another device or library); "
            "the store is whole, but runs on it cannot be resumed"
        )


def _load_lm(config: VerifyConfig, settings: Settings) -> LM:
    provenance = settings.provenance
    if missing := [key for key in ("lm", "text", "batch_sequences") if key not in provenance]:
        raise UserError(
            f"found no {missing[0]!r} in the provenance of {config.store}; expected a harvested "
            "store; restore the files named above from a copy, or write the store again"
        )
    if provenance["lm"].get("tensor", 1) > 1:
        raise UserError(
            f"found activations of an LM sliced by lm.tensor={provenance['lm']['tensor']}; "
            "expected one process a model, as others round differently; restore the files named "
            "above from a copy, or write the store again"
        )
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    leave = config.lm_trust_remote_code
    return load_harvested(provenance["lm"], config.lm_name, device, trust_remote_code=leave)


def _harvest(config: VerifyConfig, store: Repair, lm: LM) -> None:
    """Run the language model over the bad units, as the harvest did."""
    settings, device = store.manifest.settings, next(lm.model.parameters()).device
    stored = [unit for unit in store.bad_units if unit not in store.bad_tokens]
    tokens = [(unit, *store.read_tokens(unit)) for unit in stored]
    tokens += _tokens_of_text(config, store, lm) if store.bad_tokens else []
    sites = [resolve(lm.model, name) for name in settings.widths]
    truncate(lm.model, sites)
    if lm.config.compile:
        compile_layers(lm.model, sites)
    capture = Capture(lm.model, sites)
    shape = (settings.shard_sequences, settings.sequence_length)
    buffer = StagingBuffer(settings.widths, shape, settings.dtype, device)
    for unit, ids_NS, trainable_NS in tokens:
        log_info(f"harvesting unit {unit} again")
        for batch in batches_of(len(ids_NS), settings.provenance["batch_sequences"]):
            own_NS = torch.from_numpy(ids_NS[batch.start : batch.stop])
            buffer.put(batch, capture(own_NS.to(device)))
        store.rewrite(unit, buffer.arrays(len(ids_NS)), ids_NS, trainable_NS)


def _tokens_of_text(
    config: VerifyConfig, store: Repair, lm: LM
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """What is lost of the tokens, from the text."""
    manifest = store.manifest
    text = TextConfig(**manifest.settings.provenance["text"])
    text.path = config.text_path or text.path
    num_tokens = manifest.num_sequences * text.sequence_length
    found = read_text(text, lm, manifest.settings.shard_sequences, num_tokens)
    for unit, tokens in enumerate(found.units):
        if unit in store.bad_tokens:
            yield unit, tokens.ids_NS, tokens.trainable_NS
        if unit == max(store.bad_tokens):
            return
