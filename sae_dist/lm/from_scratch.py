"""Train a small language model, from nothing or on: for trying everything without a hub."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path, fsync_path, write_json
from sae_dist.common.log import log_info, progress
from sae_dist.common.processor import multiplies_bfloat16_faster
from sae_dist.common.seeds import derive
from sae_dist.common.settings import validate
from sae_dist.lm.config import LMConfig, SmallLMConfig
from sae_dist.lm.load import load_lm

_END_OF_TEXT = "<|endoftext|>"
_REPORT = "training.json"
_SAVE_EVERY_STEPS = 50
_SHAPE = {  # keys of SmallLMConfig, and what transformers calls them
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "sequence_length": "max_position_embeddings",
}


def train_small_lm(
    config: SmallLMConfig,
    documents: Callable[[], Iterator[str]],
    folder: Path,
    base: LMConfig | None = None,
) -> dict[str, Any]:
    """Train tokenizer and model on `documents()`, and save both with a report in `folder`.

    With `base`, any language model, that one is finetuned: shape and tokenizer are its own, and
    sequences no longer than it takes. The folder appears only when it is whole; until then
    `FOLDER.partial` has what training goes on from where it is started again. The report, also
    written as `training.json`, holds the losses on held-out text in nats a token: the model's, and
    beside it that of the best guess without context (`unigram_loss`) and that before any training
    (`loss_before`).

    Raises UserError if the folder exists, the base does not, or the text is too short.
    """
    validate(config, "model.")
    if config.hidden_size % (2 * config.num_heads):
        raise UserError(
            f"model.hidden_size={config.hidden_size}, model.num_heads={config.num_heads}; expected "
            "heads of an even width, all alike; change one of them"
        )
    if folder.exists():
        raise UserError(f"found {folder}; expected a new folder; remove it or name another")
    started = time.monotonic()
    torch.manual_seed(derive(config.seed, "small_lm"))
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    if base is None:
        tokenizer = _train_tokenizer(config, documents())
        model = _initialise(config, tokenizer)
    else:
        lm = load_lm(base, key="finetune_from")
        tokenizer, model = lm.tokenizer, lm.model.requires_grad_(True)
        config = replace(config, **_shape(config, model.config))
    train_NS, held_out_NS = _tokenise(config, tokenizer, documents())
    before = _held_out_loss(model, held_out_NS)
    partial_file = folder.with_name(f"{folder.name}.partial")
    _fit(config, model, train_NS, partial_file)
    report = {
        "base": None if base is None else base.name,
        "loss_before": before,
        "held_out_loss": _held_out_loss(model, held_out_NS),
        "unigram_loss": _unigram_loss(config, train_NS, held_out_NS),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_tokens": config.num_steps * config.batch_size * config.sequence_length,
        "seconds": round(time.monotonic() - started, 1),
        "config": asdict(config),
    }
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / _REPORT, report)
        for path in temporary.iterdir():
            fsync_path(path)
    partial_file.unlink(missing_ok=True)
    log_info(
        "small LM: {held_out_loss:.3f} nats a held-out token (unigram {unigram_loss:.3f}, before "
        "training {loss_before:.3f}), {num_parameters:,} parameters, {seconds} s".format_map(report)
    )
    return report


def _train_tokenizer(config: SmallLMConfig, texts: Iterator[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_END_OF_TEXT,
        eos_token=_END_OF_TEXT,
        model_max_length=config.sequence_length,
    )


def _tokenise(
    config: SmallLMConfig, tokenizer: PreTrainedTokenizerBase, texts: Iterator[str]
) -> tuple[Tensor, Tensor]:
    """Full sequences of the training and of the held-out documents."""
    tokenised = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    streams: tuple[list[int], list[int]] = ([], [])
    for index, ids in enumerate(tokenised["input_ids"]):
        is_held_out = index % config.held_out_every == config.held_out_every - 1
        streams[is_held_out].extend([*ids, tokenizer.eos_token_id])
    length, bos = config.sequence_length, tokenizer.bos_token_id
    train_NS, held_out_NS = (_sequences(stream, length, bos) for stream in streams)
    if not len(train_NS) or not len(held_out_NS):
        raise UserError(
            f"found {len(streams[0])} tokens to train on and {len(streams[1])} to hold out; "
            f"expected at least {length} of each; give more text"
        )
    stride = max(1, len(held_out_NS) // config.held_out_sequences)  # from all over the text
    return train_NS, held_out_NS[::stride][: config.held_out_sequences]


def _sequences(stream: list[int], length: int, bos: int) -> Tensor:
    num_content = length - 1
    content = torch.tensor(stream[: len(stream) // num_content * num_content], dtype=torch.long)
    return F.pad(content.view(-1, num_content), (1, 0), value=bos)


def _initialise(config: SmallLMConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    shape = {name: getattr(config, key) for key, name in _SHAPE.items()}
    return LlamaForCausalLM(
        LlamaConfig(
            **{**shape, "vocab_size": len(tokenizer)},
            num_key_value_heads=config.num_heads,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
        )
    )


def _shape(config: SmallLMConfig, found: Any) -> dict[str, int]:
    """What a loaded model's own config says of its shape, as far as it says so in Llama's words."""
    shape = {key: getattr(found, name) for key, name in _SHAPE.items() if hasattr(found, name)}
    longest = shape.get("sequence_length", config.sequence_length)
    return shape | {"sequence_length": min(config.sequence_length, longest)}


def _fit(
    config: SmallLMConfig, model: PreTrainedModel, train_NS: Tensor, partial_file: Path
) -> None:
    """Train, from where `partial_file` left off if that is of this training."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=True,
    )
    factor = partial(_learning_rate_factor, num_steps=config.num_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    of = {"config": asdict(config), "text": sha256(train_NS.numpy().tobytes()).hexdigest()}
    done = _resume(parts, of, partial_file)
    model.train()
    batches = islice(_batches(config, train_NS), done, None)  # each time in the same order
    total = config.num_steps
    bar = progress(batches, total=total, initial=done, desc="train LM", unit="step")
    for step, ids_NS in enumerate(bar, start=done + 1):
        loss = _loss(model, ids_NS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
        if step % _SAVE_EVERY_STEPS == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            with atomic_path(partial_file) as temporary:
                torch.save({"of": of, "step": step, **states}, temporary)
    model.eval()


def _resume(parts: dict[str, Any], of: dict[str, Any], partial_file: Path) -> int:
    """Bring model, optimizer and schedule where they were; how many steps that is, 0 if none."""
    if not partial_file.is_file():
        return 0
    found = torch.load(partial_file, weights_only=True)
    if found["of"] != of:
        return 0
    for name, part in parts.items():
        part.load_state_dict(found[name])
    log_info(f"goes on at step {found['step']}, from {partial_file}")
    return int(found["step"])


def _learning_rate_factor(step: int, num_steps: int) -> float:
    num_warmup = max(1, num_steps // 20)
    if step < num_warmup:
        return (step + 1) / num_warmup
    fraction = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fraction))


def _batches(config: SmallLMConfig, train_NS: Tensor) -> Iterator[Tensor]:
    """`num_steps` batches, in a new order each time the sequences have all been seen."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(config.num_steps):
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(train_NS))])
        yield train_NS[order[: config.batch_size]]
        order = order[config.batch_size :]


def _loss(model: PreTrainedModel, ids_NS: Tensor) -> Tensor:
    """Mean next-token cross entropy, its products in bfloat16 where the processor is faster so."""
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16_faster()):
        logits_NSV = model(input_ids=ids_NS, use_cache=False).logits
    return F.cross_entropy(logits_NSV[:, :-1].flatten(0, 1).float(), ids_NS[:, 1:].flatten())


@torch.no_grad()
def _held_out_loss(model: PreTrainedModel, held_out_NS: Tensor) -> float:
    losses = [_loss(model, ids_S[None]).item() for ids_S in held_out_NS]
    return sum(losses) / len(losses)


def _unigram_loss(config: SmallLMConfig, train_NS: Tensor, held_out_NS: Tensor) -> float:
    """Cross entropy of held-out tokens under the training tokens' frequencies, plus one each."""
    counts_V = torch.bincount(train_NS[:, 1:].flatten(), minlength=config.vocab_size) + 1
    return -(counts_V / counts_V.sum()).log()[held_out_NS[:, 1:]].mean().item()
