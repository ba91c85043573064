"""Gemma Scope: `layer_N/width_16k/average_l0_M/params.npz` of float32.

`f = relu(z)·(z > θ)` with `z = x W_enc + b_enc`: nothing is subtracted from the input, W_enc is
[D, F]. The file does not say whether it is an autoencoder's or a transcoder's.
"""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from sae_dist.coders import Coder, FiresBy, Form, JumpReLU
from sae_dist.coders.files import write_values
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path
from sae_dist.common.hooks import layer_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import (
    ForeignCoder,
    floats,
    plain_tensors,
    told_in_one_line,
    transposed,
)


class GemmaScope(Format):
    """`params.npz`, in a folder that is named by layer, width and L0."""

    name = "gemma_scope"
    title = "Gemma Scope"
    weights = "params.npz"
    files = (weights,)
    loading = """\
import numpy as np
from huggingface_hub import hf_hub_download

params = np.load(hf_hub_download("{repo}", "{path}/params.npz"))
z = x @ params["W_enc"] + params["b_enc"]
acts = np.maximum(z, 0) * (z > params["threshold"])
y = acts @ params["W_dec"] + params["b_dec"]
"""
    forms = Form.autoencoder, Form.transcoder
    fires_by = FiresBy.thresholds, FiresBy.threshold

    def place(self, rung: str, description: dict[str, Any], l0: float | None) -> str:
        """As Gemma Scope's are called, which needs a layer and a measured L0."""
        layer, width, l0 = layer_width_l0(self, rung, description, l0)
        return f"layer_{layer}/width_{width}/average_l0_{l0}"

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a coder; one threshold of all latents becomes a JumpReLU's.

        Byte for byte what numpy's `savez` gives, which wants arrays in memory. W_enc is said to be
        in Fortran's order, so that it is written row by row, and read as [D, F].
        """
        with atomic_path(folder / self.weights) as temporary, ZipFile(temporary, "w") as archive:
            for name, tensor in plain_tensors(coder).items():
                is_turned = name == "W_enc"
                shape = tuple(reversed(tensor.shape)) if is_turned else tuple(tensor.shape)
                header = {"descr": "<f4", "fortran_order": is_turned, "shape": shape}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    write_values(file, tensor)

    def read(self, weights: Path) -> ForeignCoder:
        """Read a coder; as an autoencoder's where inputs are as wide as outputs.

        Raises:
            UserError: an unusable file; arrays of objects, which would be pickles, are never
                loaded.
        """
        with told_in_one_line(weights), np.load(weights, allow_pickle=False) as file:
            found = {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file}
        tensors = transposed(floats(weights, found), "W_enc")
        widths = {tensors[name].shape[-1:] for name in ("W_enc", "b_dec") if name in tensors}
        return ForeignCoder(
            kind=JumpReLU,
            form=Form.autoencoder if len(widths) == 1 else Form.transcoder,
            tensors=tensors,
        )


def layer_width_l0(
    format: Format, rung: str, description: dict[str, Any], l0: float | None
) -> tuple[int, str, int]:
    """What a folder of Gemma Scope's is named by; UserError where it is not known."""
    layer = layer_of(site := description["about"]["site"])
    if layer is None:
        raise UserError(
            f"{rung}: {format.title}'s folders are named by layer, and site {site} has none; "
            "export it with to=saelens, or name the others with rungs=[…]"
        )
    if l0 is None:
        raise UserError(
            f"{rung}: {format.title}'s folders are named by L0, which was not measured; "
            "run sae-dist evaluate first"
        )
    return layer, _thousands(description["config"]["num_latents"]), round(l0)


def _thousands(number: int) -> str:
    """16384 as 16k, 1048576 as 1m: Gemma Scope's way."""
    for size, unit in ((10**6, "m"), (10**3, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)
