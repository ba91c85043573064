"""Measure the coders of a run on a finetune of the language model they were trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from sae_dist.apps.harvested import load_finetune, load_harvested_tokenizer
from sae_dist.apps.runs import coders_of, finished_run, source_of
from sae_dist.apps.sources import open_trained
from sae_dist.common.errors import UserError
from sae_dist.config import EvaluateConfig
from sae_dist.evaluate.conversations import Prompt
from sae_dist.evaluate.measures.transfer import Trained, transfer
from sae_dist.lm import LM
from sae_dist.parallel import World, make_mesh
from sae_dist.stream import ActivationSource
from sae_dist.text import read_prompts, special_ids, wrap_prompts


def measure_transfer(
    config: EvaluateConfig, folder: Path, source: ActivationSource, world: World
) -> dict[str, Any] | None:
    """What the measure `transfer` finds; None where no finetune is named, or others are asked for.

    Raises UserError for what does not belong together: finetune, prompts, template and runs.
    """
    asked, measures = config.transfer, config.measures
    if asked.lm_name is None and "transfer" in (measures or []):
        raise UserError(
            "measures=[transfer] and transfer.lm_name=null; expected a finetune; name it"
        )
    if asked.lm_name is None or "transfer" not in (measures or ["transfer"]):
        return None
    harvested = source.about.get("lm")
    if harvested is None:
        raise UserError(
            f"found no language model in the store of run={folder.name}; expected the one that "
            f"{asked.lm_name} is a finetune of; go without transfer.lm_name"
        )
    if asked.prompts is None:
        raise UserError("transfer.prompts=null; expected a file of prompts; name one")
    prompts = read_prompts(asked.prompts)
    trained = [Trained("base", folder, source), *_finetuned(config, world.device)]
    template = asked.template or (trained[-1].source.about.get("text") or {}).get("template")
    if template is None:
        raise UserError(
            "found no chat template, nor one in the store of transfer.finetuned_run; expected one "
            "with {document}; set transfer.template, or choose +chat@transfer=…"
        )
    lm = load_finetune(
        harvested,
        asked.lm_name,
        asked.lm_revision,
        world.device,
        trust_remote_code=asked.lm_trust_remote_code,
    )
    _require_harvested_from(lm, trained[1:])
    if config.lm_sequences:
        base = load_harvested_tokenizer(
            harvested, config.lm_name, trust_remote_code=config.lm_trust_remote_code
        )
        _require_same_words(base, lm)
    wrapped = wrap_prompts(prompts, lm.tokenizer, template, asked.prompt_tokens)
    return transfer(
        lm,
        [Prompt(*pair) for pair in wrapped],
        special_ids(lm.tokenizer).tolist(),
        trained,
        replace(asked, template=template),
        make_mesh(world, config.latent, {}),
    )


def _finetuned(config: EvaluateConfig, device: torch.device) -> list[Trained]:
    """The finetune's own run, if there is one; a live one brings its language model along."""
    asked = config.transfer
    if asked.finetuned_run is None:
        return []
    folder, trained = finished_run(config.runs, asked.finetuned_run)
    key = "transfer.finetuned_store"
    where = source_of(trained, asked.finetuned_store, asked.finetuned_run, key)
    leave = asked.lm_trust_remote_code
    same = replace(config, lm_name=asked.lm_name, lm_trust_remote_code=leave)
    source = open_trained(where, coders_of(folder), same, device)
    return [Trained("finetuned", folder, source)]


def _require_harvested_from(lm: LM, finetuned: list[Trained]) -> None:
    for run in finetuned:
        commit = (run.source.about.get("lm") or {}).get("commit")
        if commit != lm.revision:
            raise UserError(
                f"found run {run.folder.name} trained on activations of a language model at "
                f"{commit}; expected {lm.revision}, that of {lm.config.name}; correct "
                "transfer.finetuned_run or transfer.lm_name"
            )


def _require_same_words(base: PreTrainedTokenizerBase, lm: LM) -> None:
    """A finetune may add tokens, and use special ones; the others keep their ids."""
    added, own = base.get_added_vocab(), lm.tokenizer.get_vocab()
    words = {word: id for word, id in base.get_vocab().items() if word not in added}
    differing = [word for word, id in words.items() if own.get(word) != id]
    if differing:
        raise UserError(
            f"found {len(differing)} of {len(words)} tokens ({differing[0]!r}, say) with another "
            f"id or none in the tokenizer of {lm.config.name}; expected that of the run's language "
            "model; set transfer.lm_name to a finetune of it"
        )
