"""Gemma Scope 2: `resid_post/layer_N_width_16k_l0_M/` with `config.json` and `params.safetensors`.

`f = relu(z)·(z > θ)` with `z = x w_enc + b_enc`, and `y = f w_dec + b_dec + x A`, where A is the
affine_skip_connection of a skip transcoder: matrices are [from, to].
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form, JumpReLU
from sae_dist.coders.files import write_tensors
from sae_dist.common.files import described_by
from sae_dist.interop.format import Format
from sae_dist.interop.formats.gemma_scope import layer_width_l0
from sae_dist.interop.published import ForeignCoder, plain_tensors, read_tensors, transposed
from sae_dist.interop.settings import TEXT, Understood, read_understood

_NAMES = {
    "W_enc": "w_enc",
    "b_enc": "b_enc",
    "W_dec": "w_dec",
    "b_dec": "b_dec",
    "threshold": "threshold",
    "W_skip": "affine_skip_connection",
}
_TURNED = "W_enc", "W_skip"
_HOOKS = {  # our sites, and what transformers' Gemma 3 calls them
    "resid_post": "model.layers.{}.output",
    "mlp_in": "model.layers.{}.pre_feedforward_layernorm.output",
    "mlp_out": "model.layers.{}.post_feedforward_layernorm.output",
    "attn_z": "model.layers.{}.self_attn.o_proj.input",
}
_FOLDERS = {**{site: site for site in _HOOKS}, "attn_z": "attn_out"}
_UNDERSTOOD: Understood = {
    "architecture": ("jump_relu",),
    "type": ("sae", "transcoder"),
    "affine_connection": (bool,),
    "width": (int,),
    **dict.fromkeys(("hf_hook_point_in", "hf_hook_point_out"), (TEXT, None)),
}
_NO_BEARING = {"l0", "model_name"}


class GemmaScope2(Format):
    """`config.json` and `params.safetensors`."""

    name = "gemma_scope_2"
    title = "Gemma Scope 2"
    files = settings, weights = "config.json", "params.safetensors"
    loading = """\
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

params = load_file(hf_hub_download("{repo}", "{path}/params.safetensors"))
z = x @ params["w_enc"] + params["b_enc"]
acts = z.relu() * (z > params["threshold"])
y = acts @ params["w_dec"] + params["b_dec"]
if "affine_skip_connection" in params:
    y += x @ params["affine_skip_connection"]
"""
    fires_by = FiresBy.thresholds, FiresBy.threshold

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        if reason := super().unsupported_reason(config, d_in, d_out, about):
            return reason
        nameless = [
            s for s in (about["site"], about["target"]) if s.partition(".")[0] not in _HOOKS
        ]
        return f"{self.title} has no name for {nameless[0]}" if nameless else None

    def place(self, rung: str, description: dict[str, Any], l0: float | None) -> str:
        """As Gemma Scope 2's are called, but with the L0 that was measured for small and big."""
        layer, width, l0 = layer_width_l0(self, rung, description, l0)
        form, site = Form(description["config"]["form"]), description["about"]["site"]
        is_autoencoder = form is Form.autoencoder
        part = _FOLDERS[site.partition(".")[0]] if is_autoencoder else "transcoder"
        affine = "_affine" if form is Form.skip_transcoder else ""
        return f"{part}/layer_{layer}_width_{width}_l0_{l0}{affine}"

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a coder; one threshold of all latents becomes a JumpReLU's."""
        form, lm = coder.config.form, (about.get("source") or {}).get("lm") or {}
        settings = {
            "hf_hook_point_in": _hook(about["site"]),
            "hf_hook_point_out": _hook(about["target"]),
            "width": coder.config.num_latents,
            "model_name": lm.get("name") or "",
            "architecture": "jump_relu",
            "affine_connection": form is Form.skip_transcoder,
            "type": "sae" if form is Form.autoencoder else "transcoder",
        }
        tensors = transposed(plain_tensors(coder), *_TURNED)
        with described_by(folder / self.settings, settings):
            write_tensors(folder / self.weights, {_NAMES[name]: t for name, t in tensors.items()})

    def read(self, weights: Path) -> ForeignCoder:
        """Read an autoencoder or a transcoder.

        Where there is no `config.json`, an autoencoder's if inputs are as wide as outputs.

        Raises:
            UserError: a crosscoder, a cross-layer transcoder, or unusable files.
        """
        path, found = weights.with_name(self.settings), read_tensors(weights)
        settings = read_understood(path, _UNDERSTOOD, _NO_BEARING, is_optional=True)
        ours = {theirs: name for name, theirs in _NAMES.items()}
        named = {ours.get(name, name): tensor for name, tensor in found.items()}
        tensors = transposed(named, *_TURNED)
        site = _site(settings.get("hf_hook_point_in") or "")
        return ForeignCoder(
            kind=JumpReLU,
            form=_form(settings, tensors),
            tensors=tensors,
            widths=(None, settings.get("width"), None),
            about={"site": site, "target": _site(settings.get("hf_hook_point_out") or site)},
        )


def _form(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Form:
    """As the settings say it; where there are none, as the tensors do."""
    if settings:
        is_transcoder = settings.get("type") == "transcoder"
        has_skip = settings.get("affine_connection", False)
    else:
        widths = {tensors[name].shape[-1:] for name in ("W_enc", "b_dec") if name in tensors}
        is_transcoder, has_skip = len(widths) > 1, "W_skip" in tensors
    if has_skip:
        return Form.skip_transcoder
    return Form.transcoder if is_transcoder else Form.autoencoder


def _hook(site: str) -> str | None:
    """None of a site that it has no name for, which `sae-dist export` refuses."""
    short, _, layer = site.partition(".")
    return _HOOKS[short].format(layer) if short in _HOOKS else None


def _site(hook: str) -> str:
    """Our name of a hook; that of another module as it is."""
    for short, known in _HOOKS.items():
        if match := re.fullmatch(re.escape(known).replace(r"\{\}", r"(\d+)"), hook):
            return f"{short}.{match[1]}"
    return hook
