"""Tiny random language models, one of each family, made without a download."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB, WIDTH, NUM_LAYERS = 64, 32, 3
_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
}
OPTIONS = {
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": NUM_LAYERS, "n_head": 4},
    "gpt_neox": {**_LLAMA, "num_key_value_heads": None, "head_dim": None},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": {**_LLAMA, "head_dim": None},
    "qwen3": _LLAMA,
}
RMS_FAMILIES = [family for family in OPTIONS if not family.startswith("gpt")]


def tiny_model(family: str, **others: Any) -> PreTrainedModel:
    """Frozen, float32, every parameter random: norms' gains and biases, too."""
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    chosen = {**OPTIONS[family], **others}
    options = {key: value for key, value in chosen.items() if value is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **options, **special), dtype=torch.float32
    )
    model.config.use_cache = False
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def tiny_multimodal_model() -> PreTrainedModel:
    """A Gemma 3 with eyes, whose text decoder lies deeper inside."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**_LLAMA, "pad_token_id": None},
        vision_config={**vision, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=VOCAB - 1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config.get_text_config().use_cache = False
    return model.eval().requires_grad_(False)


def tiny_ids_NS(num_sequences: int = 2, num_positions: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, VOCAB - 1, (num_sequences, num_positions), generator=generator)
