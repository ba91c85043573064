"""A coder as other libraries publish it, in our names: what every format is read into."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Form, Kind
from sae_dist.common.errors import UserError, one_line


@dataclass(kw_only=True, slots=True)
class ForeignCoder:
    """A coder on raw activations, as it was found.

    Attributes:
        tensors: floats, named and shaped as a `Coder`'s; a BatchTopK's is called `threshold`, too.
        widths: input, latents and output as its settings say them, None where they do not.
        k: of TopK and BatchTopK.
        pre_bias: whether b_dec is subtracted from the input.
        is_relu: whether it has no thresholds: a JumpReLU's are 0 then.
        scales_by_decoder: whether activations are selected, and given, as if decoder rows had
            unit norm. Rows of zeros then never fire.
        about: `site` and `target`, where the file tells them.
    """

    kind: Kind
    form: Form
    tensors: dict[str, Tensor]
    widths: tuple[int | None, int | None, int | None] = (None, None, None)
    k: int = 1
    pre_bias: bool = False
    is_relu: bool = False
    scales_by_decoder: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def coder(self, path: Path) -> Coder:
        """The same as a coder of ours in evaluation mode, float32, with `pre_bias` folded.

        A threshold below 0 becomes 0: other libraries take ReLU before they compare.

        Raises:
            UserError: tensors that are missing, too many, of other shapes than the settings say,
                or not finite.
        """
        tensors = dict(self.tensors)
        if self.kind is Kind.batchtopk and "threshold" in tensors:
            tensors["inference_threshold"] = tensors.pop("threshold")
        coder = self._empty(path, tensors)
        expected = {name: tensor.shape for name, tensor in coder.state_dict().items()}
        if self.is_relu:
            del expected["threshold"]
        _require_shapes(path, tensors, expected)
        with told_in_one_line(path):
            coder.load_state_dict(self._folded(tensors))
        for name, tensor in coder.state_dict().items():
            if not tensor.isfinite().all():
                raise unusable(path, f"{name} is not finite")
        for threshold in (coder.threshold, coder.inference_threshold):
            if threshold is not None:
                threshold.clamp_min_(0.0)
        return coder.eval().requires_grad_(False)

    def _folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same function without its own ways: no pre-bias, thresholds, plain decoder rows."""
        if self.is_relu:
            tensors["threshold"] = torch.zeros_like(tensors["b_enc"])
        if self.pre_bias:
            shift_F = tensors["W_enc"].double() @ tensors["b_dec"].double()
            tensors["b_enc"] = tensors["b_enc"].double() - shift_F
        if self.scales_by_decoder:
            norms_F = tensors["W_dec"].norm(dim=1)
            tensors["W_enc"] = norms_F[:, None] * tensors["W_enc"]
            tensors["W_dec"] = tensors["W_dec"] / norms_F.where(norms_F > 0, 1.0)[:, None]
            for name in {"b_enc", "threshold"} & tensors.keys():
                tensors[name] = norms_F * tensors[name]
        return tensors

    def _empty(self, path: Path, tensors: dict[str, Tensor]) -> Coder:
        """A coder of these widths, without their weights."""
        shapes = [tensors[name].shape for name in ("W_enc", "W_dec") if name in tensors]
        if len(shapes) < 2 or any(len(shape) != 2 or 0 in shape for shape in shapes):
            raise unusable(path, _told(tensors))
        (num_latents, d_in), (_, d_out) = shapes
        for said, found in zip(self.widths, (d_in, num_latents, d_out), strict=True):
            if said not in (None, found):
                told = f"weights of {d_in} → {num_latents} → {d_out}, where its settings say {said}"
                raise unusable(path, told)
        if self.form is Form.autoencoder and d_in != d_out:
            raise unusable(path, f"an autoencoder of {d_in} → {num_latents} → {d_out}")
        if self.kind is not Kind.jumprelu and not 1 <= self.k <= num_latents:
            raise unusable(path, f"k={self.k} of {num_latents} latents")
        config = CoderConfig(kind=self.kind, form=self.form, num_latents=num_latents, k=self.k)
        return Coder(config, d_in, d_out, pre_bias=False)


def _require_shapes(
    path: Path, tensors: dict[str, Tensor], expected: Mapping[str, torch.Size]
) -> None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        names = sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n))
        wrong = (f"{n} {_size(found.get(n))} instead of {_size(expected.get(n))}" for n in names)
        raise unusable(path, ", ".join(wrong))


def _size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _told(tensors: Mapping[str, Tensor]) -> str:
    return f"tensors {', '.join(f'{n} {list(t.shape)}' for n, t in sorted(tensors.items()))}"


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
        f"found {path} unusable ({one_line(found)}); expected a published coder; "
        "download or export it again"
    )


@contextmanager
def told_in_one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading a foreign file can raise into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of JSON, zip, pickle, numpy, torch and safetensors
        raise unusable(path, f"{type(error).__name__}: {error}") from error


def floats(path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as float32; UserError where one is of another sort."""
    for name, tensor in found.items():
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            raise unusable(path, f"{name} of {tensor.dtype}, {tensor.layout}, instead of floats")
    with told_in_one_line(path):
        return {name: tensor.float() for name, tensor in found.items()}


def transposed(tensors: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The same, with those matrices among them transposed."""
    return {n: t.T if n in names and t.dim() == 2 else t for n, t in tensors.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All of a safetensors file, as float32; UserError if it is none, or of others."""
    with told_in_one_line(path):
        found = load_file(path)
    return floats(path, found)
