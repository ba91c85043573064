"""Gemma Scope: `layer_N/width_16k/average_l0_M/params.npz` of float32.

`f = relu(z)·(z > θ)` with `z = x W_enc + b_enc`: nothing is subtracted from the input, W_enc is
[D, F]. The file does not say whether it is an autoencoder's or a transcoder's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form, JumpReLU
from sae_dist.common.files import atomic_path
from sae_dist.interop.published import (
    ForeignCoder,
    floats,
    misfit,
    plain_tensors,
    told_in_one_line,
    transposed,
)

TITLE = "Gemma Scope"
FILES = (WEIGHTS,) = ("params.npz",)
LOADING = """\
import numpy as np
from huggingface_hub import hf_hub_download

params = np.load(hf_hub_download("{repo}", "{path}/params.npz"))
z = x @ params["W_enc"] + params["b_enc"]
acts = np.maximum(z, 0) * (z > params["threshold"])
y = acts @ params["W_dec"] + params["b_dec"]
"""


def unsupported_reason(
    config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
) -> str | None:
    """Why this format cannot hold such a coder; None if it can."""
    if reason := misfit(config, TITLE, FiresBy.thresholds, FiresBy.threshold):
        return reason
    if config.form is Form.skip_transcoder:
        return "Gemma Scope's files hold no skip connection"
    return None


def write(folder: Path, coder: Coder, about: dict[str, Any]) -> None:
    """Write a coder; one threshold of all latents becomes a JumpReLU's."""
    tensors = plain_tensors(coder)
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    with atomic_path(folder / WEIGHTS) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read(folder: Path) -> ForeignCoder:
    """Read a coder; as an autoencoder's where inputs are as wide as outputs.

    Raises:
        UserError: an unusable file; arrays of objects, which would be pickles, are never loaded.
    """
    path = folder / WEIGHTS
    with told_in_one_line(path), np.load(path, allow_pickle=False) as file:
        found = {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    tensors = transposed(floats(path, found), "W_enc")
    widths = {tensors[name].shape[-1:] for name in ("W_enc", "b_dec") if name in tensors}
    return ForeignCoder(
        kind=JumpReLU,
        form=Form.autoencoder if len(widths) == 1 else Form.transcoder,
        tensors=tensors,
    )
