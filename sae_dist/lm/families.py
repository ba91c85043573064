"""Where each known family of language models keeps its parts. A new family is one more entry."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Paths of modules: `layers` and `embed` inside the decoder, the rest inside one layer.

    `mlp_out` is the module whose output is added to the residual stream. `mlp_norm` is the RMSNorm
    before the MLP, and `gain_offset` what the norm adds to its weight to make its gain; `mlp_norm`
    is None where the norm is a LayerNorm, whose bias and centring no gain can stand for.
    `attention_norm` is the norm between the attention's output matrix and the residual stream,
    where there is one, and `final_norm`, inside the decoder, that before the logits.
    """

    layers: str = "layers"
    embed: str = "embed_tokens"
    attention_out: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_inputs: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_out: str = "mlp"
    mlp_norm: str | None = "post_attention_layernorm"
    gain_offset: float = 0.0
    attention_norm: str | None = None
    final_norm: str = "norm"


_LLAMA = Family()
_GEMMA = Family(
    mlp_out="post_feedforward_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    gain_offset=1.0,
    attention_norm="post_attention_layernorm",
)
FAMILIES = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": Family(
        layers="h",
        embed="wte",
        attention_out="attn.c_proj",
        mlp_inputs=("mlp.c_fc",),
        mlp_norm=None,
        final_norm="ln_f",
    ),
    "gpt_neox": Family(
        embed="embed_in",
        attention_out="attention.dense",
        mlp_inputs=("mlp.dense_h_to_4h",),
        mlp_norm=None,
        final_norm="final_layer_norm",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def decoder_of(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """The text decoder inside a model, whatever wraps it, and the path that leads there."""
    decoder = model.get_decoder()
    return next(path for path, module in model.named_modules() if module is decoder), decoder


def family_of(model: PreTrainedModel) -> Family | None:
    """The family of a model's text decoder, or None if it is not in the table."""
    config = getattr(decoder_of(model)[1], "config", None)
    return FAMILIES.get(getattr(config, "model_type", ""))
