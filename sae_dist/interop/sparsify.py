"""sparsify 1.3: a folder a hookpoint, with `cfg.json` and `sae.safetensors`.

    SparseCoder.load_from_disk(folder)

It subtracts b_dec from the input unless it transcodes, and takes TopK after ReLU.
"""

from pathlib import Path
from typing import Any

from sae_dist.coders import Coder, CoderConfig, Form, Kind
from sae_dist.common.files import described_by
from sae_dist.interop.published import (
    Published,
    plain_tensors,
    read_settings,
    read_tensors,
    unusable,
    write_tensors,
)

TITLE = "sparsify"
FILES = SETTINGS, WEIGHTS = "cfg.json", "sae.safetensors"
LOADING = """\
from sparsify import SparseCoder

coder = SparseCoder.load_from_hub("{repo}", hookpoint="{path}")  # or load_from_disk("{path}")
top_acts, top_indices, _ = coder.encode(x)
y = coder(x).sae_out
"""
_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    **{name: name for name in ("W_dec", "b_dec", "W_skip")},
}


def why_not(config: CoderConfig, d_in: int, d_out: int) -> str | None:
    """Why this format cannot hold such a coder; None if it can."""
    if config.kind is not Kind.topk:
        return f"sparsify has no {config.kind}, only TopK"
    if d_in != d_out:
        return f"sparsify wants outputs as wide as inputs, not {d_in} → {d_out}"
    return None


def write(folder: Path, coder: Coder, about: dict[str, Any]) -> None:
    """Write a TopK coder."""
    config, is_autoencoder = coder.config, coder.config.form is Form.autoencoder
    tensors = plain_tensors(coder, pre_bias=is_autoencoder)
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, config.num_latents // coder.d_in),
        "normalize_decoder": config.unit_norm_decoder,
        "num_latents": config.num_latents,
        "k": config.k,
        "multi_topk": config.multi_topk,
        "skip_connection": config.form is Form.skip_transcoder,
        "transcode": not is_autoencoder,
        "d_in": coder.d_in,
    }
    with described_by(folder / SETTINGS, settings):
        write_tensors(folder / WEIGHTS, {_NAMES[name]: t for name, t in tensors.items()})


def read(folder: Path) -> Published:
    """Read a coder with TopK.

    Raises:
        UserError: GroupMax, or unusable files.
    """
    settings, found = read_settings(folder / SETTINGS), read_tensors(folder / WEIGHTS)
    if (activation := settings.get("activation", "topk")) != "topk":
        raise unusable(folder / SETTINGS, f"activation {activation} instead of topk")
    if unknown := sorted(found.keys() - _NAMES.values()):
        raise unusable(folder / WEIGHTS, f"tensors {', '.join(unknown)}")
    transcodes = bool(settings.get("transcode", False))
    if settings.get("skip_connection", False):
        form = Form.skip_transcoder
    else:
        form = Form.transcoder if transcodes else Form.autoencoder
    return Published(
        kind=Kind.topk,
        form=form,
        tensors={ours: found[theirs].float() for ours, theirs in _NAMES.items() if theirs in found},
        k=settings.get("k", 32),
        pre_bias=not transcodes,
    )
