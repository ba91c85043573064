"""A coder as other libraries publish it, in our names: what every format is read into."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form, slice_of
from sae_dist.coders.files import differences, rows_at_once
from sae_dist.common.errors import UserError, one_line

_GATE = "b_gate", "b_mag", "r_mag"


@dataclass(kw_only=True, slots=True)
class ForeignCoder:
    """A coder on raw activations, as it was found.

    Attributes:
        kind: its class; `settings` are what it must be told besides form and width, as k.
        tensors: floats, named and shaped as a `Coder`'s.
        widths: input, latents and output as its settings say them, None where they do not.
        pre_bias: whether b_dec is subtracted from the input.
        is_relu: whether it has no thresholds: a JumpReLU's are 0 then.
        is_gated: whether it has `b_gate`, `b_mag` and `r_mag` [F] in place of b_enc and thresholds
            (Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 6).
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
    is_gated: bool = False
    scales_by_decoder: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def coder(self, path: Path, part: int = 0, parts: int = 1) -> Coder:
        """A slice of the same as a coder of ours in evaluation mode, float32, with `pre_bias`
        folded.

        A threshold below 0 becomes 0: other libraries take ReLU before they compare.

        Raises:
            UserError: tensors that are missing, too many, of other shapes than the settings say,
                or not finite.
        """
        tensors = dict(self.tensors)
        whole = self._empty(path, tensors)
        expected = whole.state_dict()
        if self.is_relu:
            del expected["threshold"]
        if self.is_gated:
            del expected["threshold"]
            expected |= dict.fromkeys(_GATE, expected.pop("b_enc"))
        if wrong := differences({name: t.shape for name, t in tensors.items()}, expected):
            raise unusable(path, wrong)
        latents = slice_of(whole.config.num_latents, part, parts)
        rows = slice(latents.start, latents.stop)
        coder = Coder(whole.config, whole.d_in, whole.d_out, latents=latents, pre_bias=False)
        with told_in_one_line(path):
            folded = self._folded(tensors).items()
            own = whole.latent_tensors
            coder.load_state_dict({name: t[rows] if name in own else t for name, t in folded})
        for name, tensor in coder.state_dict().items():
            if not tensor.isfinite().all():
                raise unusable(path, f"{name} is not finite")
        return coder.eval().requires_grad_(False)

    def _folded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same function without its own ways: no pre-bias, thresholds, plain decoder rows."""
        if self.is_relu:
            tensors["threshold"] = torch.zeros_like(tensors["b_enc"])
        if self.is_gated:
            tensors |= _without_gate(tensors["W_enc"], *(tensors.pop(name) for name in _GATE))
        if "threshold" in tensors:
            tensors["threshold"] = tensors["threshold"].clamp_min(0.0)
        if self.pre_bias:
            shift_F = _shift(tensors["W_enc"], tensors["b_dec"])
            tensors["b_enc"] = tensors["b_enc"].double() - shift_F
        if self.scales_by_decoder:
            norms_F = tensors["W_dec"].norm(dim=1)
            tensors["W_enc"] = norms_F[:, None] * tensors["W_enc"]
            tensors["W_dec"] = tensors["W_dec"] / norms_F.where(norms_F > 0, 1.0)[:, None]
            for name in {"b_enc", "threshold"} & tensors.keys():
                tensors[name] = norms_F * tensors[name]
        return tensors

    def _empty(self, path: Path, tensors: dict[str, Tensor]) -> Coder:
        """A coder of these widths, which holds no memory."""
        shapes = [tensors[name].shape for name in ("W_enc", "W_dec") if name in tensors]
        if len(shapes) < 2 or any(len(shape) != 2 or 0 in shape for shape in shapes):
            told = ", ".join(f"{name} {list(t.shape)}" for name, t in sorted(tensors.items()))
            raise unusable(path, f"tensors {told}")
        (num_latents, d_in), (_, d_out) = shapes
        for said, found in zip(self.widths, (d_in, num_latents, d_out), strict=True):
            if said not in (None, found):
                told = f"weights of {d_in} → {num_latents} → {d_out}, where its settings say {said}"
                raise unusable(path, told)
        if self.form is Form.autoencoder and d_in != d_out:
            raise unusable(path, f"an autoencoder of {d_in} → {num_latents} → {d_out}")
        config = self.kind(form=self.form, num_latents=num_latents, **self.settings)
        try:
            return Coder(config, d_in, d_out, pre_bias=False, device="meta")
        except UserError as error:  # a k out of range
            raise unusable(path, str(error)) from error


def _without_gate(
    W_FD: Tensor, b_gate_F: Tensor, b_mag_F: Tensor, r_mag_F: Tensor
) -> dict[str, Tensor]:
    """A gated encoder as a JumpReLU's: with z = exp(r_mag) W x + b_mag it gives ReLU(z) where W x +
    b_gate > 0, and that is where z > b_mag - exp(r_mag) b_gate.
    """
    gain_F = r_mag_F.double().exp()
    threshold_F = (b_mag_F.double() - gain_F * b_gate_F.double()).float()
    return {"W_enc": gain_F.float()[:, None] * W_FD, "b_enc": b_mag_F, "threshold": threshold_F}


def _shift(W_FD: Tensor, b_D: Tensor) -> Tensor:
    """W b [F], summed in float64, of some rows at a time."""
    shift_F = b_D.new_empty(len(W_FD), dtype=torch.float64)
    step = rows_at_once(W_FD)
    for w_fD, shift_f in zip(W_FD.split(step), shift_F.split(step), strict=True):
        torch.mv(w_fD.double(), b_D.double(), out=shift_f)
    return shift_F


@torch.no_grad()
def plain_tensors(coder: Coder, *, pre_bias: bool = False) -> dict[str, Tensor]:
    """A coder's weights as other libraries take them: float32, on the CPU, in our shapes.

    Of matrices that are so already no copy is made.

    Args:
        coder: whole.
        pre_bias: whether the reader subtracts b_dec from the input.

    Returns:
        `W_enc [F, D]`, `b_enc [F]`, `W_dec [F, E]`, `b_dec [E]`, `W_skip [E, D]` of a skip
        transcoder, and `threshold [F]` of a kind that has one, a single one the same everywhere.
    """
    tensors = coder.config.plain(coder.state_dict())
    if coder.pre_bias != pre_bias:
        shift_F = _shift(tensors["W_enc"], tensors["b_dec"])
        tensors["b_enc"] = tensors["b_enc"].double() + (shift_F if pre_bias else -shift_F)
    if coder.config.fires_by is FiresBy.threshold:
        tensors["threshold"] = tensors["threshold"].expand(coder.config.num_latents)
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


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, by torch's `weights_only`, which knows nothing else.

    Raises:
        UserError: anything else is in it.
    """
    with told_in_one_line(path):
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or not all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
        ):
            raise TypeError("no dict of tensors")
    return dict(found)
