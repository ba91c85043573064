"""Language models larger than one device: DeepSpeed ZeRO-3 spreads their weights over processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sae_dist.common.errors import UserError
from sae_dist.lm.config import LMConfig, LMDtype
from sae_dist.lm.load import LM, load_lm


def load_zero3_lm(config: LMConfig) -> LM:
    """As `load_lm`, but each process reads and holds its part of every weight alone.

    torch.distributed must be initialised. Raises UserError for settings that ZeRO-3 cannot hold.
    """
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    if config.compile:
        raise UserError("lm.compile=true under ZeRO-3; expected layers as they are; drop it")
    if config.dtype is LMDtype.auto or config.fold_norms or config.gguf_file:
        raise UserError(
            f"lm.dtype={config.dtype}, lm.fold_norms={config.fold_norms}, "
            f"lm.gguf_file={config.gguf_file} under ZeRO-3; expected a named dtype, no folding and "
            "no GGUF: fold or unpack once, save the model, and harvest from that folder"
        )
    has_gpu = torch.cuda.is_available()
    if not has_gpu:  # nothing calls the operator that DeepSpeed would first compile, for minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if has_gpu else "gloo")
    settings = HfDeepSpeedConfig(_settings(config))  # while it lives, from_pretrained spreads
    lm = load_lm(config, None)
    del settings
    return lm


def spread_engine(model: nn.Module, config: LMConfig) -> Callable[..., Any]:
    """The forward pass of a spread model; all processes must call it equally often."""
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, config=_settings(config))
    engine.eval()
    forward: Callable[..., Any] = engine
    return forward


def _settings(config: LMConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": config.dtype is LMDtype.bfloat16},
        "fp16": {"enabled": config.dtype is LMDtype.float16},
    }
