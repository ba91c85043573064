"""A coder as other libraries publish it, in our names: what every format is read into."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form
from sae_dist.common.errors import UserError, one_line


@dataclass(kw_only=True, slots=True)
class ForeignCoder:
    """A coder on raw activations, as it was found.

    Attributes:
        kind: its class; `settings` are what it must be told besides form and width, as k.
        tensors: floats, named and shaped as a `Coder`'s.
        widths: input, latents and output as its settings say them, None where they do not.
        pre_bias: whether b_dec is subtracted from the input.
        is_relu: whether it has no thresholds: a JumpReLU's are 0 then.
        scales_by_decoder: whether activations are selected, and given, as if decoder rows had
            unit norm. Rows of zeros then never fire.
        about: `site` and `target`, where the file tells them.
    """

    kind: type[CoderConfig]
    form: Form
    tensors: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    widths: tuple[int | None, int | None, int | None] = (None, None, None)
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
        return coder.eval().requires_grad_(False)

    def _folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same function without its own ways: no pre-bias, thresholds, plain decoder rows."""
        if self.is_relu:
            tensors["threshold"] = torch.zeros_like(tensors["b_enc"])
        if "threshold" in tensors:
            tensors["threshold"] = tensors["threshold"].clamp_min(0.0)
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
        config = self.kind(form=self.form, num_latents=num_latents, **self.settings)
        try:
            return Coder(config, d_in, d_out, pre_bias=False)
        except UserError as error:  # a k out of range
            raise unusable(path, str(error)) from error


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
        transcoder, and `threshold [F]` of a kind that has one, a single one the same everywhere.
    """
    tensors = coder.state_dict()
    if coder.pre_bias != pre_bias:
        shift_F = coder.W_enc.double() @ coder.b_dec.double()
        tensors["b_enc"] = coder.b_enc.double() + (shift_F if pre_bias else -shift_F)
    if coder.config.fires_by is FiresBy.threshold:
        tensors["threshold"] = tensors["threshold"].expand(coder.config.num_latents)
    return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


def misfit(config: CoderConfig, format: str, *held: FiresBy) -> str | None:
    """Why a format, which decides what fires in these ways, cannot hold a kind; None if it can."""
    if config.signed:
        return f"{format} has no negative activations, as {config.title} gives"
    if config.fires_by not in held:
        known = " or ".join(_IN_WORDS[way] for way in held)
        return f"{format} wants {known}, which {config.title} has not"
    return None


_IN_WORDS = {
    FiresBy.rank: "the k largest of each row",
    FiresBy.threshold: "a threshold",
    FiresBy.thresholds: "a threshold a latent",
}


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
