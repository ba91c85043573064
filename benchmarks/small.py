"""A small language model that has learnt something, and its activations."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from sae_dist.lm import Capture, LMConfig, SmallLMConfig, load_lm, resolve, train_small_lm
from sae_dist.text import TextConfig, pack, texts

_PASS_SEQUENCES = 32


def python_text(num_documents: int) -> Iterator[str]:
    """Python's standard library, its first documents."""
    return islice(texts(TextConfig()), num_documents)


def trained_lm(folder: Path, width: int, num_steps: int, num_documents: int) -> Path:
    """A Llama of four layers that has read some of Python's standard library; its folder."""
    config = SmallLMConfig(hidden_size=width, num_steps=num_steps)
    train_small_lm(config, lambda: python_text(num_documents), folder)
    return folder


def activations_of(
    lm_folder: Path, text: TextConfig, site: str, num_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a language model makes of a text at a site [N, S, D], and what is trained on [N, S]."""
    lm = load_lm(LMConfig(name=str(lm_folder)))
    capture = Capture(lm.model, [resolve(lm.model, site)])
    blocks = pack(
        texts(text), lm.tokenizer, text, num_tokens=num_tokens, block_sequences=_PASS_SEQUENCES
    )
    for block in blocks:
        acts_NSD = capture(torch.from_numpy(block.ids_NS))[site]
        yield acts_NSD, torch.from_numpy(block.trainable_NS)
