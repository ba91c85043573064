"""A tiny language model's activations, harvested in a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_dist.common.dtypes import FloatDtype
from sae_dist.harvest import HarvestLoopConfig, Processes, harvest
from sae_dist.lm import Capture, resolve
from sae_dist.store import StoreConfig, StoreWriter
from sae_dist.text import Fingerprint, TextConfig, pack
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


def tokens() -> Any:
    """`TEXTS` as 45 sequences of 8 positions, the first of which is never trained on."""
    config = TextConfig(path="texts", sequence_length=POSITIONS)
    fingerprint = Fingerprint()
    limit = NUM_SEQUENCES * POSITIONS
    blocks = pack(TEXTS, tokenizer(), config, num_tokens=limit, fingerprint=fingerprint)
    return blocks, lambda: fingerprint.to_dict(config)


def tiny_writer(
    path: Path, about: dict[str, Any] = LM, dtype: FloatDtype = FloatDtype.float32
) -> StoreWriter:
    """Shards of six sequences and chunks of two positions; one shard in four is held out."""
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
    lock_seconds: float = 45.0,
    dtype: FloatDtype = FloatDtype.float32,
) -> None:
    """Fill a store, or the rest of it, four sequences a forward pass; each is shown to `seen`."""
    model = tiny_model(family)
    assert model.config.num_hidden_layers == NUM_LAYERS
    capture = capture or Capture(model, [resolve(model, name) for name in SITES])

    def watched(ids_NS: Tensor) -> dict[str, Tensor]:
        seen(ids_NS)
        return capture(ids_NS)

    alone = Processes(0, 1, torch.device("cpu"))
    config = HarvestLoopConfig(batch_sequences=4, lock_seconds=lock_seconds)
    writer = tiny_writer(path, about, dtype)
    harvest(writer, watched, tokens, config, processes or alone)  # type: ignore[arg-type]


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store by its path."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
