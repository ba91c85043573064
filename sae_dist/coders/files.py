"""A finished coder on disk: `coder.safetensors` and `coder.json`, on raw activations."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig, Form, Kind
from sae_dist.common.errors import UserError
from sae_dist.common.files import fsync_path, read_json, write_json

FORMAT = 1
WEIGHTS, DESCRIPTION = "coder.safetensors", "coder.json"


def save_coder(
    folder: Path, coder: Coder, tensors: dict[str, Tensor], about: dict[str, Any]
) -> None:
    """Write a folded coder, whole or gathered.

    Args:
        folder: made if absent; files in it are replaced, the description last.
        coder: tells the kind, form and widths; its own weights are not read.
        tensors: all latents' weights, named as the coder's.
        about: what it was trained on (site, target, run, …), JSON-able.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    fsync_path(temporary)
    temporary.replace(folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "d_in": coder.d_in,
        "d_out": coder.d_out,
        "pre_bias": coder.pre_bias,
        "config": asdict(coder.config),
        "about": about,
    }
    write_json(folder / DESCRIPTION, description)


def describe_coder(folder: Path) -> dict[str, Any]:
    """The contents of `coder.json`.

    Raises:
        UserError: there is none, or it was written by another version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"no coder in {folder}: expected {DESCRIPTION} and {WEIGHTS}; train one first"
        )
    description: dict[str, Any] = read_json(path)
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise UserError(f"{path} has format {found}; this version reads {FORMAT}: export it again")
    return description


def load_coder(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    part: int = 0,
    parts: int = 1,
) -> Coder:
    """Load a trained coder as a plain `nn.Module` on raw activations, in evaluation mode.

    Args:
        folder: `runs/NAME/coders/RUNG`.
        device: where its weights go.
        part, parts: load only this slice of the latents; nothing more is read from disk.

    Returns:
        a coder with `encode(x)`, `decode(acts)` and `forward(x)`.

    Raises:
        UserError: the folder holds no coder, or `parts` does not divide its latents.
    """
    description = describe_coder(Path(folder))
    config = _config(description["config"])
    latents = slice_of(config.num_latents, part, parts)
    coder = Coder(
        config,
        description["d_in"],
        description["d_out"],
        latents=latents,
        pre_bias=description["pre_bias"],
        device=device,
    )
    held = slice(latents.start, latents.stop)
    with safe_open(Path(folder) / WEIGHTS, framework="pt", device=str(device)) as file:
        tensors = {
            name: file.get_slice(name)[held] if name in LATENT_TENSORS else file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - not a dict
        }
    coder.load_state_dict(tensors)
    return coder.eval().requires_grad_(False)


LATENT_TENSORS = ("W_enc", "b_enc", "W_dec", "threshold")
"""The tensors of a coder that have a row a latent; the others are the same in every slice."""


def slice_of(num_latents: int, part: int, parts: int) -> range:
    """The latents that slice `part` of `parts` holds.

    Raises:
        UserError: the latents cannot be dealt equally.
    """
    if num_latents % parts:
        raise UserError(
            f"{num_latents} latents cannot be dealt to {parts} slices equally; "
            f"choose parallel.latent among the divisors of {num_latents}"
        )
    size = num_latents // parts
    return range(part * size, (part + 1) * size)


def _config(values: dict[str, Any]) -> CoderConfig:
    known = {field.name for field in fields(CoderConfig)}
    config = CoderConfig(**{name: value for name, value in values.items() if name in known})
    config.kind, config.form = Kind(config.kind), Form(config.form)
    return config
