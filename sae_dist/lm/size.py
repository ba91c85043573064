"""How large a language model is, from its configuration alone: no weights are read or made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from sae_dist.common.errors import UserError
from sae_dist.common.patterns import expand, is_pattern
from sae_dist.lm.capture import Capture, site_widths, truncate
from sae_dist.lm.config import LMConfig, LMDtype
from sae_dist.lm.files import read_config
from sae_dist.lm.foresee import skeleton
from sae_dist.lm.sites import resolve


@dataclass(frozen=True, kw_only=True, slots=True)
class LMSize:
    """What a harvest of some sites asks of a language model.

    Attributes:
        parameters: of the whole model, its head included.
        num_layers: that are run, up to the deepest site.
        matrix_parameters: that each token is multiplied with in them.
        d_model, d_mlp, num_heads, d_attention: of a layer; d_attention counts all heads.
        widths: of each site.
        bytes_per_value: of a weight.
        is_eager: whether attention keeps its scores.
    """

    parameters: int
    num_layers: int
    matrix_parameters: int
    d_model: int
    d_mlp: int
    num_heads: int
    d_attention: int
    widths: dict[str, int]
    bytes_per_value: int
    is_eager: bool

    def flops_per_token(self, sequence_length: int) -> int:
        """Of a forward pass to the deepest site: 2 a weight, and 4·S·d a layer in attention.

        Kaplan et al. 2020, table 1; scores of later positions, masked out, are computed, too.
        """
        attention = 4 * sequence_length * self.d_attention * self.num_layers
        return 2 * self.matrix_parameters + attention


def expand_sites(
    config: LMConfig, sites: list[str], architecture: dict[str, Any] | None = None
) -> list[str]:
    """The sites that names and patterns (`common/patterns.py`) stand for, each once.

    The number of layers is that of the `config.json` that describes the language model; see
    `lm_size`. Raises UserError for layers that it does not have.
    """
    if not any(map(is_pattern, sites)):
        return sites
    text = _described(config, architecture or {}).get_text_config()
    layers = range(text.num_hidden_layers)
    return list(dict.fromkeys(site for pattern in sites for site in expand(pattern, layers)))


def lm_size(config: LMConfig, architecture: dict[str, Any], sites: list[str]) -> LMSize:
    """The size of a language model, built without memory on torch's meta device.

    It is described by the `config.json` in the folder `config.name`, or by `architecture`
    (`model_type` and what differs from that type's defaults), or by the Hub.

    Raises:
        UserError: none of them describes it, or it has no such site.
    """
    described = _described(config, architecture)
    model, text = skeleton(config, described), described.get_text_config()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = [resolve(model, name) for name in sites]
    num_dropped = truncate(model, found)
    is_named = config.dtype not in (LMDtype.auto, LMDtype.fastest)
    dtype = config.dtype if is_named else LMDtype.bfloat16
    d_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None)
    return LMSize(
        parameters=parameters,
        num_layers=text.num_hidden_layers - num_dropped,
        matrix_parameters=_matrix_parameters(model.base_model),
        d_model=text.hidden_size,
        d_mlp=inner or 4 * text.hidden_size,
        num_heads=text.num_attention_heads,
        d_attention=text.num_attention_heads * d_head,
        widths=site_widths(Capture(model, found), "meta"),
        bytes_per_value=getattr(torch, dtype.value).itemsize,
        is_eager=config.attn_implementation == "eager",
    )


def _described(config: LMConfig, architecture: dict[str, Any]) -> PretrainedConfig:
    folder = Path(config.name).expanduser()
    if not folder.is_dir() and architecture:
        return transformers.AutoConfig.for_model(**architecture)
    try:
        return read_config(config)
    except UserError as error:
        raise UserError(
            f"{error}; or give architecture.model_type=… and what else its config.json says"
        ) from error


def _matrix_parameters(model: nn.Module) -> int:
    """Weights of two dimensions, but for embeddings, of which a token reads one row."""
    modules = (module for module in model.modules() if not isinstance(module, nn.Embedding))
    own = (parameter for module in modules for parameter in module.parameters(recurse=False))
    return sum(parameter.numel() for parameter in own if parameter.ndim == 2)
