"""Load a frozen language model with its tokenizer, from the Hub or from a folder."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.common.processor import multiplies_bfloat16_faster
from sae_dist.lm.config import LMConfig, LMDtype
from sae_dist.lm.files import find_lm, refuse_unlike
from sae_dist.lm.fold import fold_rms_norms


@dataclass(slots=True)
class LM:
    """A frozen language model. `revision` says exactly which weights it has.

    It is the commit on the Hub, or for a folder a SHA-256 over its configuration and, of each file
    of weights, the name, the size and the first and last MiB; over such of one file of GGUF.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LMConfig
    revision: str


def load_lm(
    config: LMConfig,
    device: torch.device | str | None = None,
    *,
    key: str = "lm.name",
    **loading: Any,
) -> LM:
    """Load model and tokenizer: eval mode, no gradients, no cache, on `device` (None: as loaded).

    `loading` are further arguments for the model's `from_pretrained`.

    Raises UserError, naming the setting `key`, for a missing folder, an unknown name, revision or
    auto class, files that are damaged or do not belong together, weights that are missing, and for
    a model whose norms cannot be folded though `fold_norms` asks for it.
    """
    config = replace(config, dtype=decided_dtype(config.dtype))
    auto_class = find_auto_class(config.auto_class)
    files = find_lm(config, key)
    files.load(
        transformers.AutoConfig, "a configuration"
    )  # first, to be named where it is to blame
    tokenizer = files.load(transformers.AutoTokenizer, "a tokenizer")
    if config.attn_implementation:
        loading["attn_implementation"] = config.attn_implementation
    if files.gguf is not None:
        loading["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, loaded = files.load(
        auto_class,
        config.auto_class,
        dtype=config.dtype.value,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, with their shapes
        **loading,
    )
    refuse_unlike(config, loaded)
    model.eval().requires_grad_(False)
    for part in (model.config, model.config.get_text_config()):
        part.use_cache = False
    if config.fold_norms:
        fold_rms_norms(model)
    return LM(model if device is None else model.to(device), tokenizer, config, files.revision)


def load_tokenizer(config: LMConfig, *, key: str = "lm.name") -> PreTrainedTokenizerBase:
    """The tokenizer alone.

    Raises UserError, naming the setting `key`, for a missing folder, an unknown name or revision,
    and files that are none of a tokenizer's.
    """
    tokenizer: PreTrainedTokenizerBase = find_lm(config, key).load(
        transformers.AutoTokenizer, "a tokenizer"
    )
    return tokenizer


def decided_dtype(dtype: LMDtype) -> LMDtype:
    """What `fastest` is on this machine; any other comes back as it is."""
    if dtype is not LMDtype.fastest:
        return dtype
    is_fast = torch.cuda.is_available() or multiplies_bfloat16_faster()
    return LMDtype.bfloat16 if is_fast else LMDtype.float32


def find_auto_class(name: str) -> Any:
    """The class of transformers that `lm.auto_class` names. Raises UserError if there is none."""
    known = [key for key in dir(transformers) if key.startswith("AutoModel")]
    if name in known:
        return getattr(transformers, name)
    raise UserError(
        f"found lm.auto_class={name}; expected a class of transformers, as AutoModelForCausalLM"
        f"{nearest(name, known)}"
    )
