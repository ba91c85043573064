"""sparsify 1.3: a folder a hookpoint, with `cfg.json` and `sae.safetensors`.

    SparseCoder.load_from_disk(folder)

It subtracts b_dec from the input unless it transcodes, and takes TopK after ReLU.
"""

from pathlib import Path
from typing import Any

from sae_dist.coders import Coder, CoderConfig, FiresBy, Form, TopK
from sae_dist.coders.files import write_tensors
from sae_dist.common.files import described_by
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, plain_tensors, read_tensors
from sae_dist.interop.settings import Understood, read_understood

_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    **{name: name for name in ("W_dec", "b_dec", "W_skip")},
}

_UNDERSTOOD: Understood = {
    "activation": ("topk",),
    "signed": (False,),  # of versions before 1: TopK of magnitudes
    **dict.fromkeys(("transcode", "skip_connection"), (bool,)),
    **dict.fromkeys(("d_in", "num_latents", "expansion_factor", "k"), (int,)),
}
_NO_BEARING = {"normalize_decoder", "multi_topk"}  # they tell how it was trained


class Sparsify(Format):
    """`cfg.json` and `sae.safetensors`."""

    name = title = "sparsify"
    files = settings, weights = "cfg.json", "sae.safetensors"
    loading = """\
from sparsify import SparseCoder

coder = SparseCoder.load_from_hub("{repo}", hookpoint="{path}")  # or load_from_disk("{path}")
top_acts, top_indices, _ = coder.encode(x)
y = coder(x).sae_out
"""
    fires_by = (FiresBy.rank,)

    def unsupported_reason(
        self, config: CoderConfig, d_in: int, d_out: int, about: dict[str, Any]
    ) -> str | None:
        reason = super().unsupported_reason(config, d_in, d_out, about)
        if reason is None and d_in != d_out:
            return f"sparsify wants outputs as wide as inputs, not {d_in} → {d_out}"
        return reason

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        """Write a TopK coder."""
        config, is_autoencoder = coder.config, coder.config.form is Form.autoencoder
        tensors = plain_tensors(coder, pre_bias=is_autoencoder)
        settings = {
            "activation": "topk",
            "expansion_factor": max(1, config.num_latents // coder.d_in),
            "normalize_decoder": config.unit_norm_decoder,
            "num_latents": config.num_latents,
            **config.aim,
            "skip_connection": config.form is Form.skip_transcoder,
            "transcode": not is_autoencoder,
            "d_in": coder.d_in,
        }
        with described_by(folder / self.settings, settings):
            write_tensors(folder / self.weights, {_NAMES[name]: t for name, t in tensors.items()})

    def read(self, weights: Path) -> ForeignCoder:
        """Read a coder with TopK.

        Raises:
            UserError: settings that have no equal here, as GroupMax, or unusable files.
        """
        path = weights.with_name(self.settings)
        settings, found = read_understood(path, _UNDERSTOOD, _NO_BEARING), read_tensors(weights)
        transcodes = settings.get("transcode", False)
        if settings.get("skip_connection", False):
            form = Form.skip_transcoder
        else:
            form = Form.transcoder if transcodes else Form.autoencoder
        d_in, num_latents = settings.get("d_in"), settings.get("num_latents", 0)
        if not num_latents and d_in is not None:
            num_latents = d_in * settings.get("expansion_factor", 32)
        ours = {theirs: name for name, theirs in _NAMES.items()}
        return ForeignCoder(
            kind=TopK,
            settings={"k": settings.get("k", 32)},
            form=form,
            tensors={ours.get(name, name): tensor for name, tensor in found.items()},
            widths=(d_in, num_latents or None, d_in),
            pre_bias=not transcodes,
        )
