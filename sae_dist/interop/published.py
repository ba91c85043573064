"""A coder as other libraries publish it, in our names: what every format is read into."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Form, Kind
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_whole

_MOST_JSON_BYTES = 2**24
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError),
    *(SafetensorError, BadZipFile, UnpicklingError),
)


@dataclass(kw_only=True, slots=True)
class Published:
    """A coder on raw activations, as it was found.

    Attributes:
        tensors: named and shaped as a `Coder`'s; `threshold` may be a single number.
        k: of TopK and BatchTopK.
        pre_bias: whether b_dec is subtracted from the input.
        about: `site` and `target`, where the file tells them.
    """

    kind: Kind
    form: Form
    tensors: dict[str, Tensor]
    k: int = 1
    pre_bias: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def coder(self, path: Path) -> Coder:
        """The same as a coder of ours in evaluation mode, float32, with `pre_bias` folded.

        A threshold below 0 becomes 0: other libraries take ReLU before they compare.

        Raises:
            UserError: tensors that are missing, too many, of wrong shapes, or not finite.
        """
        tensors = dict(self.tensors)
        if self.kind is Kind.batchtopk and "threshold" in tensors:
            tensors["inference_threshold"] = tensors.pop("threshold")
        try:
            num_latents, d_in = tensors["W_enc"].shape
            d_out = tensors["W_dec"].shape[1]
            config = CoderConfig(
                kind=self.kind, form=self.form, num_latents=num_latents, k=int(self.k)
            )
            coder = Coder(config, d_in, d_out, pre_bias=False)
            if self.pre_bias:
                centre_D = tensors["b_dec"].double()
                tensors["b_enc"] = tensors["b_enc"].double() - tensors["W_enc"].double() @ centre_D
            coder.load_state_dict(tensors)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise unusable(path, str(error)) from error
        for name, tensor in coder.state_dict().items():
            if not tensor.isfinite().all():
                raise unusable(path, f"{name} is not finite")
        for threshold in (coder.threshold, coder.inference_threshold):
            if threshold is not None:
                threshold.clamp_min_(0.0)
        return coder.eval().requires_grad_(False)


@torch.no_grad()
def plain_tensors(coder: Coder, *, pre_bias: bool = False) -> dict[str, Tensor]:
    """A coder's weights as other libraries take them: float32, on the CPU, in our shapes.

    Args:
        coder: whole.
        pre_bias: whether the reader subtracts b_dec from the input.

    Returns:
        `W_enc [F, D]`, `b_enc [F]`, `W_dec [F, E]`, `b_dec [E]`, `W_skip [E, D]` of a skip
        transcoder, and `threshold [F]`, for a BatchTopK the same everywhere.
    """
    tensors = coder.state_dict()
    if coder.pre_bias != pre_bias:
        shift_F = coder.W_enc.double() @ coder.b_dec.double()
        tensors["b_enc"] = coder.b_enc.double() + (shift_F if pre_bias else -shift_F)
    if coder.config.kind is Kind.batchtopk:
        threshold = tensors.pop("inference_threshold")
        tensors["threshold"] = threshold.expand(coder.config.num_latents)
    return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


def unusable(path: Path, found: str) -> UserError:
    """The error for a file that is not what its name says."""
    return UserError(
        f"found {path} unusable ({' '.join(found.split())[:200]}); expected a published coder; "
        "download or export it again"
    )


@contextmanager
def told_in_one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading a foreign file can raise into a UserError that names it."""
    try:
        yield
    except _UNREADABLE as error:
        raise unusable(path, f"{type(error).__name__}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file of settings; UserError if it is none."""
    with told_in_one_line(path):
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        return dict(read_json(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All of a safetensors file; UserError if it is none."""
    with told_in_one_line(path):
        return load_file(path)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all; its folder is made."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with write_whole(path) as temporary:
        save_file(whole, temporary)
