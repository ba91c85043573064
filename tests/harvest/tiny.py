"""A tiny language model's activations, harvested in a moment."""

import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_dist.common.dtypes import FloatDtype
from sae_dist.harvest import (
    HarvestLoopConfig,
    Processes,
    Text,
    Tokens,
    UnitTokens,
    fill_store,
)
from sae_dist.harvest.tokens import tokenised
from sae_dist.lm import Capture, resolve
from sae_dist.store import StoreConfig, StoreWriter
from sae_dist.text import Fingerprint, Position, TextConfig, pack
from tests.lm.tiny import NUM_LAYERS, VOCAB, WIDTH, tiny_model

SITES = ("resid_post.1", "mlp_in.1", "mlp_out.1")
POSITIONS, NUM_SEQUENCES = 8, 45
TEXTS = [f"the {a} {b} saw one {a} of the {b}" for a in "abcdefgh" for b in "stuvwxyz"]
LM = {"lm": {"name": "tiny", "commit": "none"}}
_SEQUENCE_VALUES = POSITIONS * len(SITES) * WIDTH


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of `TEXTS`, all of them in the tiny models' vocabulary; 0 begins and ends."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>"], show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="<s>")


UNIT_SEQUENCES = 6


def tokens(first: int = 0, begin: Any = None) -> Text:
    """`TEXTS` as 45 sequences of 8 positions, the first of which is never trained on, from a unit.

    The fingerprint is of all, whatever unit is the first.
    """
    config = TextConfig(path="texts", sequence_length=POSITIONS)
    fingerprint = Fingerprint()
    start = Position() if begin is None else Position(*begin)
    if first:
        for tokens_before in islice(tokens().units, first):
            fingerprint.add_sequences(tokens_before.ids_NS)
    blocks = pack(
        TEXTS,
        tokenizer(),
        config,
        start=start,
        num_tokens=(NUM_SEQUENCES - first * UNIT_SEQUENCES) * POSITIONS,
        block_sequences=UNIT_SEQUENCES,
        fingerprint=fingerprint,
    )

    def units() -> Iterator[UnitTokens]:
        begins = start
        for block in blocks:
            yield UnitTokens(block.ids_NS, block.trainable_NS, astuple(begins))
            begins = block.end

    def told() -> dict[str, Any]:
        fingerprint.num_tokens_asked = NUM_SEQUENCES * POSITIONS
        return fingerprint.to_dict(config)

    return Text(units(), told)


def with_tokens(writer: StoreWriter) -> StoreWriter:
    """The same, with all tokens written."""
    with tokenised(writer, tokens) as check:
        while writer.num_units is None or not writer.has_tokens(writer.num_units - 1):
            check()
            time.sleep(0.01)
    return writer


def tiny_writer(
    path: Path, about: dict[str, Any] = LM, dtype: FloatDtype = FloatDtype.float32
) -> StoreWriter:
    """Shards of six sequences and chunks of two; one shard in four is held out."""
    sequence_mib = _SEQUENCE_VALUES * dtype.disk.itemsize / 2**20
    config = StoreConfig(
        dtype=dtype,
        chunk_mib=2.5 * sequence_mib,
        shard_mib=6.5 * sequence_mib,
        held_out=0.25,
    )
    widths = dict.fromkeys(SITES, WIDTH)
    return StoreWriter.create(path, widths, POSITIONS, config, about, NUM_SEQUENCES)


def tiny_harvest(
    path: Path,
    family: str = "llama",
    processes: Processes | None = None,
    seen: Callable[[Tensor], None] = lambda ids_NS: None,
    about: dict[str, Any] = LM,
    capture: Capture | None = None,
    dtype: FloatDtype = FloatDtype.float32,
    text: Tokens = tokens,
) -> None:
    """Fill a store, or the rest of it, four sequences a forward pass; each is shown to `seen`."""
    model = tiny_model(family)
    assert model.config.num_hidden_layers == NUM_LAYERS
    capture = capture or Capture(model, [resolve(model, name) for name in SITES])

    def watched(ids_NS: Tensor) -> dict[str, Tensor]:
        seen(ids_NS)
        return capture(ids_NS)

    alone = Processes(0, 1, torch.device("cpu"))
    config = HarvestLoopConfig(batch_sequences=4)
    writer = tiny_writer(path, about, dtype)
    fill_store(writer, watched, text, config, processes or alone)  # type: ignore[arg-type]


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store by its path."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
