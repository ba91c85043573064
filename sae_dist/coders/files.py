"""A finished coder on disk: `coder.safetensors` and `coder.json`, on raw activations."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig, Form
from sae_dist.coders.kinds import kind_named
from sae_dist.common.errors import UserError, one_line
from sae_dist.common.files import atomic_path, described_by, read_json

FORMAT = 1
WEIGHTS, DESCRIPTION = "coder.safetensors", "coder.json"
_MOST_DESCRIPTION_BYTES = 2**24
_FLOATS = ("F64", "F32", "F16", "BF16")


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
    description = {
        "format": FORMAT,
        "d_in": coder.d_in,
        "d_out": coder.d_out,
        "pre_bias": coder.pre_bias,
        "config": asdict(coder.config),
        "about": about,
    }
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with (
        described_by(folder / DESCRIPTION, description),
        atomic_path(folder / WEIGHTS) as temporary,
    ):
        save_file(whole, temporary)


def describe_coder(folder: Path) -> dict[str, Any]:
    """The contents of `coder.json`.

    Raises:
        UserError: there is none, it was written by another version, or it is none at all.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"no coder in {folder}: expected {DESCRIPTION} and {WEIGHTS}; train one first"
        )
    if path.stat().st_size > _MOST_DESCRIPTION_BYTES:
        raise _not_a_coder(path, f"{path.stat().st_size} bytes")
    try:
        description: dict[str, Any] = dict(read_json(path))
        found = description.get("format")
        if found == FORMAT:
            config_of(description["config"])
            _require_sorts(description)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _not_a_coder(path, f"{type(error).__name__}: {error}") from error
    if found != FORMAT:
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
        UserError: the folder holds no coder, its weights are not those of its description, or
            `parts` does not divide its latents.
    """
    folder = Path(folder)
    description = describe_coder(folder)
    whole = _described(folder, description, None, "meta")  # holds no memory, whatever is claimed
    latents = slice_of(whole.config.num_latents, part, parts)
    held = slice(latents.start, latents.stop)
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device=str(device)) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            _require_shapes(folder / WEIGHTS, whole, slices)
            tensors = {
                name: file.get_slice(name)[held]
                if name in whole.latent_tensors
                else file.get_tensor(name)
                for name in slices
            }
    except (OSError, SafetensorError) as error:
        raise _not_a_coder(folder / WEIGHTS, str(error)) from error
    coder = _described(folder, description, latents, device)
    coder.load_state_dict(tensors)
    for name, tensor in coder.state_dict().items():
        if not tensor.isfinite().all():
            raise _not_a_coder(folder / WEIGHTS, f"{name} is not finite")
    return coder.eval().requires_grad_(False)


def _require_sorts(description: dict[str, Any]) -> None:
    """Raise TypeError where whoever reads a description would find another sort than expected."""
    about = dict(description["about"])
    source = dict(about.get("source") or {})
    parts = {f"source.{name}": source.get(name) or {} for name in ("lm", "text")}
    for name, value, sort in (
        ("pre_bias", description["pre_bias"], bool),
        *((name, about.get(name, ""), str) for name in ("site", "target")),
        *((name, value, dict) for name, value in parts.items()),
    ):
        if not isinstance(value, sort):
            raise TypeError(f"{name}={value!r}")


def _described(
    folder: Path, description: dict[str, Any], latents: range | None, device: torch.device | str
) -> Coder:
    """The coder that a description speaks of, without its weights."""
    try:
        widths = description["d_in"], description["d_out"]
        pre_bias = description["pre_bias"]
        config = config_of(description["config"])
        return Coder(config, *widths, latents=latents, pre_bias=pre_bias, device=device)
    except (TypeError, LookupError, ValueError, RuntimeError, OverflowError) as error:
        raise _not_a_coder(folder / DESCRIPTION, str(error)) from error


def _require_shapes(path: Path, coder: Coder, slices: dict[str, Any]) -> None:
    """Refuse tensors other than the coder's, before any of them is read."""
    expected = {name: list(tensor.shape) for name, tensor in coder.state_dict().items()}
    found = {name: part.get_shape() for name, part in slices.items()}
    if found != expected:
        names = sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n))
        wrong = ", ".join(f"{n} {found.get(n)} instead of {expected.get(n)}" for n in names)
        raise _not_a_coder(path, wrong)
    if odd := [name for name, part in slices.items() if part.get_dtype() not in _FLOATS]:
        raise _not_a_coder(path, f"{odd[0]} of {slices[odd[0]].get_dtype()} instead of floats")


def _not_a_coder(path: Path, found: str) -> UserError:
    return UserError(
        f"found {path} unusable ({one_line(found)}); expected what training or "
        "export writes; restore it or export the coder again"
    )


def slice_of(num_latents: int, part: int, parts: int) -> range:
    """The latents that slice `part` of `parts` holds.

    Raises:
        UserError: the latents cannot be dealt equally.
    """
    if num_latents % parts:
        raise UserError(
            f"{num_latents} latents cannot be dealt to {parts} slices equally; expected a divisor "
            f"of {num_latents}; choose another number"
        )
    size = num_latents // parts
    return range(part * size, (part + 1) * size)


def config_of(values: dict[str, Any]) -> CoderConfig:
    """The configuration in a description's `config`.

    Raises:
        UserError: of a kind that is not installed.
        TypeError, ValueError, LookupError: a setting that this version does not know, or of another
            sort.
    """
    kind = kind_named(str(values["kind"]))
    usual = asdict(kind())
    for name, value in values.items():
        if name not in usual or type(value) not in _SORTS[type(usual[name])]:
            raise TypeError(f"{name}={value!r}, which no {kind.kind} coder has")
    config = kind(**{name: value for name, value in values.items() if name != "kind"})
    config.form = Form(config.form)
    return config


_SORTS: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    type(None): (float, int, type(None)),
    Form: (str, Form),
}
"""What JSON may have for a setting, by the sort of its default."""
