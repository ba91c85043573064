"""Llama Scope (He et al. 2024, arXiv 2410.20526), and its later suite of DeepSeek's R1-Distill.

What lm_saes computes: activations are scaled to a mean norm of √D, by s = √D / norm, before and
after. With `z = W_enc s_in x + b_enc` a latent gives z where z ‖d‖ > t, d its decoder row, and
`y = (f W_dec + b_dec) / s_out`. t is θ s_out in Llama Scope, whose one θ is compared with what is
added to raw outputs, and exp(log_jumprelu_threshold) in the later suite. Activations are z, as
SAELens gives them; SAELens' loaders take every ‖d‖ for 1, and give the later suite's coders of
activations that are scaled already.
"""

from collections.abc import Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_dist.coders import Form, JumpReLU
from sae_dist.coders.files import differences
from sae_dist.common.hooks import site_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, read_tensors, told_in_one_line, unusable
from sae_dist.interop.settings import TEXT, Understood, read_understood

_ENCODER, _DECODER = "encoder.weight", "decoder.weight"  # [F, D] and [D, F]
_ENCODER_BIAS, _DECODER_BIAS = "encoder.bias", "decoder.bias"
_LOG_THRESHOLD, _NORM = "log_jumprelu_threshold", "dataset_average_activation_norm"
_NUMBER = float, int
_UNDERSTOOD: Understood = {
    "act_fn": ("jumprelu",),
    "norm_activation": ("dataset-wise",),
    "apply_decoder_bias_to_pre_encoder": (False,),
    "sparsity_include_decoder_norm": (True,),
    "use_decoder_bias": (True,),
    "use_glu_encoder": (False,),
    "sae_type": ("sae",),
    "expansion_factor": _NUMBER,
    "jump_relu_threshold": _NUMBER,
    **dict.fromkeys(("d_model", "d_sae"), (int,)),
    **dict.fromkeys(("hook_point_in", "hook_point_out"), (TEXT,)),
    _NORM: ({"in": _NUMBER, "out": _NUMBER},),
}
_NO_BEARING = frozenset(
    """
    bias_init_method ddp_size decoder_exactly_fixed_norm device dtype force_unit_decoder_norm
    init_decoder_norm init_encoder_norm init_encoder_with_decoder_transpose
    jumprelu_threshold_window k_warmup_steps l1_coefficient l1_coefficient_warmup_steps lp
    sae_pretrained_name_or_path seed sparsity_threshold_for_triton_spmm_kernel strict_loading top_k
    tp_size use_batch_norm_mse use_ghost_grads use_triton_kernel
    """.split()
)


class LlamaScope(Format):
    """`hyperparams.json` and `checkpoints/final.safetensors`."""

    name = "llama_scope"
    title = "Llama Scope"
    files = settings, weights = "hyperparams.json", "checkpoints/final.safetensors"

    def read(self, weights: Path) -> ForeignCoder:
        """Read an autoencoder or a transcoder.

        Raises:
            UserError: settings that have no equal here, or unusable files.
        """
        path = self.folder_of(weights) / self.settings
        settings, found = _understood(path), read_tensors(weights)
        with told_in_one_line(path):
            norms, threshold = settings[_NORM], float(settings["jump_relu_threshold"])
            scales = _scales(path, settings["d_model"], norms["in"], norms["out"])
        return _published(weights, settings, found, scales, torch.tensor(threshold * scales[1]))


class LlamaScopeR1(Format):
    """`config.json` and `sae_weights.safetensors`."""

    name = "llama_scope_r1"
    title = "Llama Scope R1-Distill"
    files = settings, weights = "config.json", "sae_weights.safetensors"

    def read(self, weights: Path) -> ForeignCoder:
        """Read an autoencoder or a transcoder.

        Raises:
            UserError: settings that have no equal here, or unusable files.
        """
        path = weights.with_name(self.settings)
        settings, found = _understood(path), read_tensors(weights)
        with told_in_one_line(path):
            hooks = [settings["hook_point_in"], settings["hook_point_out"]]
            d_model = settings["d_model"]
        with told_in_one_line(weights):
            norms = {hook: float(found.pop(f"{_NORM}.{hook}")) for hook in {*hooks}}
            threshold_F = found.pop(_LOG_THRESHOLD).exp()
            scales = _scales(weights, d_model, *(norms[hook] for hook in hooks))
        return _published(weights, settings, found, scales, threshold_F)


def _understood(path: Path) -> dict[str, Any]:
    settings = read_understood(path, _UNDERSTOOD, _NO_BEARING)
    if "d_sae" not in settings and "expansion_factor" in settings:
        with told_in_one_line(path):
            settings["d_sae"] = int(settings["d_model"] * settings["expansion_factor"])
    return settings


def _scales(path: Path, d_model: int, *norms: float) -> list[float]:
    """What activations of these mean norms are multiplied by."""
    if not all(isfinite(norm) and norm > 0 for norm in norms):
        raise unusable(path, f"{_NORM} {norms}")
    return [sqrt(d_model) / norm for norm in norms]


@torch.no_grad()
def _published(
    weights: Path,
    settings: Mapping[str, Any],
    found: Mapping[str, Tensor],
    scales: list[float],
    threshold: Tensor,
) -> ForeignCoder:
    """A coder on raw activations.

    Args:
        weights: for messages.
        settings: understood ones.
        found: its matrices and biases, in lm_saes' names.
        scales: of inputs and outputs.
        threshold: t above, [] or [F].
    """
    with told_in_one_line(weights):
        F, D = settings["d_sae"], settings["d_model"]
        shapes = {_ENCODER: (F, D), _ENCODER_BIAS: (F,), _DECODER: (D, F), _DECODER_BIAS: (D,)}
        expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if wrong := differences({name: tensor.shape for name, tensor in found.items()}, expected):
        raise unusable(weights, wrong)
    into, out = scales
    norms_F = found[_DECODER].norm(dim=0)
    is_there_F = norms_F > 0  # of a latent without a decoder row z ‖d‖ is 0: it never fires
    site, target = (site_of(settings.get(f"hook_point_{end}", "")) for end in ("in", "out"))
    with told_in_one_line(weights):
        threshold_F = (threshold / norms_F.where(is_there_F, 1.0)).expand(F)
    return ForeignCoder(
        kind=JumpReLU,
        form=Form.autoencoder if site == target else Form.transcoder,
        tensors={
            "W_enc": found[_ENCODER] * (into * is_there_F)[:, None],
            "b_enc": found[_ENCODER_BIAS] * is_there_F,
            "W_dec": found[_DECODER].T / out,
            "b_dec": found[_DECODER_BIAS] / out,
            "threshold": threshold_F,
        },
        about={"site": site, "target": target},
    )
