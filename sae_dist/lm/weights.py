"""A few of a language model's weights, by name, from files in which the others stay."""

import json
from collections import defaultdict
from collections.abc import Iterable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from sae_dist.lm.files import LMFiles

_SAVED_AS = {"lm_head.weight": "embed_out.weight"}  # in files of GPT-NeoX
_PLAIN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}  # others are quantised


def fill(
    model: PreTrainedModel,
    modules: Iterable[nn.Module],
    files: LMFiles,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> bool:
    """Give some modules of a model on torch's meta device their weights, in place.

    A weight is known by its name in the model, by another that is tied to it, or by these without
    the base model's prefix, as transformers knows it, too. On the Hub no other file is fetched.

    Args:
        dtype: of the model; None leaves weights as they are saved.

    Returns:
        whether all of them are there, as safetensors and of the right shapes; else nothing changed.
    """
    try:
        names = _files_by_name(files)
        found = [
            (module, own, _read(files, names, known, parameter.shape))
            for module in modules
            for own, parameter, known in _known_names(model, module)
        ]
    except (OSError, SafetensorError, LookupError, ValueError):
        return False
    for module, own, tensor in found:
        weight = tensor.to(device, dtype or tensor.dtype)
        setattr(module, own, nn.Parameter(weight, requires_grad=False))
    return True


def _known_names(
    model: PreTrainedModel, module: nn.Module
) -> Iterable[tuple[str, nn.Parameter, list[str]]]:
    """A module's own parameters, each with all names it may be saved under, likeliest first."""
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    path = next(path for path, other in model.named_modules() if other is module)
    for own, parameter in module.named_parameters(recurse=False):
        known = [f"{path}.{own}", *names[parameter]]
        known += [_SAVED_AS[name] for name in known if name in _SAVED_AS]
        prefix = f"{model.base_model_prefix}."
        yield own, parameter, [*known, *(name.removeprefix(prefix) for name in known)]


def _files_by_name(files: LMFiles) -> dict[str, str]:
    """The file that each tensor is in. Raises OSError where there are no safetensors."""
    if files.gguf is not None:
        raise FileNotFoundError(SAFE_WEIGHTS_NAME)
    try:
        path = _path(files, SAFE_WEIGHTS_NAME)
    except OSError:
        with open(_path(files, SAFE_WEIGHTS_INDEX_NAME)) as index:
            return dict(json.load(index)["weight_map"])
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), SAFE_WEIGHTS_NAME)


def _read(files: LMFiles, names: dict[str, str], known: list[str], shape: torch.Size) -> Tensor:
    """The first tensor that has one of these names. Raises LookupError if none is such a weight."""
    name = next((name for name in known if name in names), known[0])
    with safe_open(_path(files, names[name]), "pt") as file:
        tensor: Tensor = file.get_tensor(name)
    if tensor.dtype not in _PLAIN or tensor.shape != shape:
        raise LookupError(name)
    return tensor


def _path(files: LMFiles, name: str) -> str:
    """Raises OSError if a model has no such file."""
    return str(cached_file(files.source, name, revision=files.commit))
