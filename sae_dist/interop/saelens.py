"""SAELens 6.x: a folder with `cfg.json` and `sae_weights.safetensors`.

    SAE.load_from_disk(folder)

There W_enc is [D, F]. Its `decode` leaves W_skip out; only its `forward` has it.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Form, Kind
from sae_dist.common.files import described_by
from sae_dist.common.hooks import hook_name, site_of
from sae_dist.interop.published import (
    Published,
    plain_tensors,
    read_settings,
    read_tensors,
    unusable,
    write_tensors,
)

TITLE = "SAELens"
FILES = SETTINGS, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LOADING = """\
from sae_lens import SAE

sae = SAE.from_pretrained("{repo}", "{path}")  # or SAE.load_from_disk("{path}")
acts = sae.encode(x)  # of the hook in sae.cfg.metadata; see from_pretrained_no_processing
y = sae(x)
"""
_VERSION = "6.0.0"  # settings of an older version, or of none, would be converted
_JUMPRELU = {
    Form.autoencoder: "jumprelu",
    Form.transcoder: "jumprelu_transcoder",
    Form.skip_transcoder: "jumprelu_skip_transcoder",
}
_RELU = {
    "standard": Form.autoencoder,
    "transcoder": Form.transcoder,
    "skip_transcoder": Form.skip_transcoder,
}
_FORMS = {
    **{architecture: form for form, architecture in _JUMPRELU.items()},
    **_RELU,
    "topk": Form.autoencoder,
}


def why_not(config: CoderConfig, d_in: int, d_out: int) -> str | None:
    """Why this format cannot hold such a coder; None if it can."""
    if config.kind is Kind.topk and config.form is not Form.autoencoder:
        return f"SAELens has no TopK {config.form.replace('_', ' ')}"
    return None


def write(folder: Path, coder: Coder, about: dict[str, Any]) -> None:
    """Write a coder; a BatchTopK as a JumpReLU with its one threshold."""
    tensors = plain_tensors(coder)
    tensors["W_enc"] = tensors["W_enc"].T
    config = coder.config
    is_topk = config.kind is Kind.topk
    settings: dict[str, Any] = {
        "architecture": "topk" if is_topk else _JUMPRELU[config.form],
        "d_in": coder.d_in,
        "d_sae": config.num_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        # attn_z is hook_z with the heads side by side
        "reshape_activations": "hook_z" if about["site"].startswith("attn_z.") else "none",
        "metadata": _metadata(about),
    }
    if is_topk:
        settings |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    if config.form is not Form.autoencoder:
        settings["d_out"] = coder.d_out
    with described_by(folder / SETTINGS, settings):
        write_tensors(folder / WEIGHTS, tensors)


def _metadata(about: dict[str, Any]) -> dict[str, Any]:
    source = about.get("source") or {}
    lm, text = source.get("lm") or {}, source.get("text") or {}
    is_transcoder = about["target"] != about["site"]
    folds_norms = not lm or bool(lm.get("fold_norms"))  # of an unknown one, as others publish it
    return {
        "sae_lens_version": _VERSION,
        "sae_lens_training_version": None,
        "model_name": lm.get("name"),
        "hook_name": hook_name(about["site"], folds_norms=folds_norms),
        "hook_name_out": (
            hook_name(about["target"], folds_norms=folds_norms) if is_transcoder else None
        ),
        "hook_head_index": None,
        "context_size": text.get("sequence_length"),
        "prepend_bos": True,
        "dataset_path": text.get("path"),
        "model_from_pretrained_kwargs": {},
        "neuronpedia_id": None,
    }


def read(folder: Path) -> Published:
    """Read a coder that runs without training: jumprelu, topk, standard, and transcoders.

    Raises:
        UserError: another architecture, activations normalised at run time, or unusable files.
    """
    settings, path = read_settings(folder / SETTINGS), folder / WEIGHTS
    architecture = settings.get("architecture", "standard")
    if architecture not in _FORMS:
        raise unusable(folder / SETTINGS, f"{architecture}, which is none of {', '.join(_FORMS)}")
    if (norm := settings.get("normalize_activations") or "none") != "none":
        raise unusable(folder / SETTINGS, f"normalize_activations={norm}, which was not folded")
    tensors = _named_as_ours(read_tensors(path), path)
    if architecture in _RELU:
        tensors["threshold"] = tensors["b_enc"] * 0
    is_topk = architecture == "topk"
    if is_topk and settings.get("rescale_acts_by_decoder_norm"):
        norms_F = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"] = norms_F[:, None] * tensors["W_enc"]
        tensors["b_enc"] = norms_F * tensors["b_enc"]
        tensors["W_dec"] = tensors["W_dec"] / norms_F[:, None]
    metadata = {**settings, **(settings.get("metadata") or {})}
    site = site_of(metadata.get("hook_name") or "")
    form = _FORMS[architecture]
    return Published(
        kind=Kind.topk if is_topk else Kind.jumprelu,
        form=form,
        tensors=tensors,
        k=settings.get("k", 1),
        pre_bias=form is Form.autoencoder and bool(settings.get("apply_b_dec_to_input", True)),
        about={"site": site, "target": site_of(metadata.get("hook_name_out") or site)},
    )


def _named_as_ours(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if "W_enc" not in tensors or "b_enc" not in tensors:
        raise unusable(path, f"tensors {', '.join(sorted(tensors))}")
    found = {name: tensor.float() for name, tensor in tensors.items()}
    return {**found, "W_enc": found["W_enc"].T}
