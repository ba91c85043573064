"""A finished coder on disk: `coder.safetensors` and `coder.json`, on raw activations."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_dist.coders.coder import Coder
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.cross_layer import make_coder
from sae_dist.coders.kinds import kind_named
from sae_dist.common.errors import UserError, one_line
from sae_dist.common.files import atomic_path, described_by, read_json

FORMAT = 1
WEIGHTS, DESCRIPTION = "coder.safetensors", "coder.json"
_MOST_DESCRIPTION_BYTES = 2**24
_BLOCK_BYTES = 2**24  # of a tensor's rows at once
_FLOATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor that is nowhere whole: its shape and dtype, and blocks of its rows, in order."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]


def save_coder(
    folder: Path, coder: Coder, tensors: Mapping[str, Tensor | Rows], about: dict[str, Any]
) -> None:
    """Write a folded coder; in memory, beside what is there, one block of it.

    Args:
        folder: made if absent; files in it are replaced, the description last.
        coder: tells the kind, form and widths; its own weights are not read.
        tensors: all latents' weights, named as the coder's; of rows the blocks are asked for in
            the order of `in_file_order`.
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
    with described_by(folder / DESCRIPTION, description):
        write_tensors(folder / WEIGHTS, tensors)


def in_file_order(tensors: Mapping[str, Tensor | Rows]) -> list[str]:
    """Names in the order in which safetensors writes them: wide dtypes first, which aligns all."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Rows]) -> None:
    """Write a safetensors file, whole or not at all; its folder is made.

    Byte for byte what safetensors' own writer gives, which wants all tensors contiguous and in
    memory: here one block of rows is.
    """
    header, end = {}, 0
    for name in in_file_order(tensors):
        tensor, start = tensors[name], end
        end += prod(tensor.shape) * tensor.dtype.itemsize
        dtype, shape = _FLOATS[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            write_values(file, tensors[name])
        assert file.tell() == 8 + len(text) + end


def write_values(file: IO[bytes], tensor: Tensor | Rows) -> None:
    """Write a tensor's values, row after row; in memory, one block of them.

    What is a matrix only turned is read as it lies, its rows together, and written to places.
    """
    if isinstance(tensor, Tensor) and _is_turned(tensor):
        _write_turned(file, tensor.T)
        return
    for block in _blocks(tensor):
        file.write(_bytes(block))


def _is_turned(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and not tensor.is_contiguous() and tensor.T.is_contiguous()


def _write_turned(file: IO[bytes], own_FD: Tensor) -> None:
    """Write the columns of a matrix, each after the other."""
    start, column_bytes, done = file.tell(), len(own_FD) * own_FD.itemsize, 0
    for block_ND in _blocks(own_FD):
        values, size = _bytes(block_ND.T), len(block_ND) * own_FD.itemsize
        for d in range(own_FD.shape[1]):
            file.seek(start + d * column_bytes + done)
            file.write(values[d * size : (d + 1) * size])
        done += size
    file.seek(start + own_FD.nbytes)


def _bytes(tensor: Tensor) -> memoryview:
    values = tensor.detach().cpu().contiguous().view(-1)
    return values.view(torch.uint8).numpy().data


def _blocks(tensor: Tensor | Rows) -> Iterable[Tensor]:
    if isinstance(tensor, Rows):
        return tensor.blocks
    return tensor.split(rows_at_once(tensor)) if tensor.dim() else [tensor]


def rows_at_once(tensor: Tensor) -> int:
    """How many of its rows are a block."""
    return max(1, _BLOCK_BYTES // tensor[0].nbytes)


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
    coder, tensors = _opened(Path(folder), device, part, parts)
    coder.to_empty(device=device).load_state_dict(tensors)
    return _finished(Path(folder), coder)


def map_coder(folder: str | Path) -> Coder:
    """Like `load_coder`, but its weights stay in the file, and are read where they are used."""
    coder, tensors = _opened(Path(folder), "cpu", 0, 1)
    coder.load_state_dict(tensors, assign=True)
    return _finished(Path(folder), coder)


def _opened(
    folder: Path, device: torch.device | str, part: int, parts: int
) -> tuple[Coder, dict[str, Tensor]]:
    """A slice of a coder that holds no memory, and the weights for it."""
    description = describe_coder(folder)
    whole = _described(folder, description, None)
    latents = slice_of(whole.config.num_latents, part, parts)
    part_of = _described(folder, description, latents)
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device=str(device)) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            _require_weights(folder / WEIGHTS, whole, slices)
            tensors = {
                name: file.get_slice(name)[_rows_of(whole, name, latents)]
                if name in whole.latent_tensors
                else file.get_tensor(name)
                for name in slices
            }
    except (OSError, SafetensorError) as error:
        raise _not_a_coder(folder / WEIGHTS, str(error)) from error
    return part_of, tensors


def _rows_of(whole: Coder, name: str, latents: range) -> slice:
    """The rows of a weight that are those of some latents, of which layers have a share each."""
    num_rows, F = len(whole.state_dict()[name]), whole.config.num_latents
    return slice(latents.start * num_rows // F, latents.stop * num_rows // F)


def _finished(folder: Path, coder: Coder) -> Coder:
    for name, tensor in coder.state_dict().items():
        if not all(block.isfinite().all() for block in _blocks(tensor)):
            raise _not_a_coder(folder / WEIGHTS, f"{name} is not finite")
    return coder.eval().requires_grad_(False)


def _require_sorts(description: dict[str, Any]) -> None:
    """Raise TypeError where whoever reads a description would find another sort than expected."""
    about = description["about"]
    source = about.get("source") or {}
    parts = {f"source.{name}": source.get(name) or {} for name in ("lm", "text")}
    for name, value, sort in (
        ("pre_bias", description["pre_bias"], bool),
        *((name, about.get(name, ""), str) for name in ("site", "target")),
        *((name, value, dict) for name, value in parts.items()),
    ):
        if not isinstance(value, sort):
            raise TypeError(f"{name}={value!r}")


def _described(folder: Path, description: dict[str, Any], latents: range | None) -> Coder:
    """The coder that a description speaks of; it holds no memory, whatever is claimed."""
    try:
        widths = description["d_in"], description["d_out"]
        pre_bias = description["pre_bias"]
        config = config_of(description["config"])
        return make_coder(config, *widths, latents=latents, pre_bias=pre_bias, device="meta")
    except (TypeError, LookupError, ValueError, RuntimeError, OverflowError) as error:
        raise _not_a_coder(folder / DESCRIPTION, str(error)) from error


def differences(found: Mapping[str, Sequence[int]], expected: Mapping[str, Tensor]) -> str:
    """Which shapes are not as expected, as `b_enc absent instead of [64]`; "" if all are."""
    have = {name: list(shape) for name, shape in found.items()}
    want = {name: list(one.shape) for name, one in expected.items()}
    names = sorted(name for name in have | want if have.get(name) != want.get(name))
    return ", ".join(
        f"{n} {have.get(n, 'absent')} instead of {want.get(n, 'absent')}" for n in names
    )


def _require_weights(path: Path, coder: Coder, slices: dict[str, Any]) -> None:
    """Refuse tensors other than the coder's, before any of them is read."""
    found = {name: part.get_shape() for name, part in slices.items()}
    if wrong := differences(found, coder.state_dict()):
        raise _not_a_coder(path, wrong)
    if odd := [name for name, part in slices.items() if part.get_dtype() not in _FLOATS.values()]:
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
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        sort = type(usual.get(name))
        if name not in usual or type(value) not in _SORTS.get(sort, (str, sort)):
            raise TypeError(f"{name}={value!r}, which no {kind.kind} coder has")
        chosen[name] = sort(value) if issubclass(sort, StrEnum) else value
    del chosen["kind"]
    return kind(**chosen)


_SORTS: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    list: (list, type(None)),
    type(None): (float, int, list, type(None)),
}
"""What JSON may have for a setting, by the sort of its default."""
