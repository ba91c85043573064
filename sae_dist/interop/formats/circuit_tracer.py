"""circuit-tracer's sets of transcoders: `layer_N.safetensors` of each layer beside a `config.yaml`.

`W_enc` and `W_dec` are [F, D], nothing is subtracted from the input, and W_skip [D, D] is applied
as x W_skipᵀ. Without `activation_function.threshold` it is a ReLU, whatever `config.yaml` says.
Such sets are written by `sae-dist export to=circuit_tracer`.
"""

import re
from pathlib import Path

import yaml

from sae_dist.coders import Form, JumpReLU
from sae_dist.common.hooks import site_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, read_tensors, told_in_one_line
from sae_dist.interop.settings import TEXT, Understood, require_understood

_FILE = re.compile(r"layer_(\d+)\.safetensors")
_OURS = {"activation_function.threshold": "threshold"}
_UNDERSTOOD: Understood = {
    "model_kind": ("transcoder_set",),
    **dict.fromkeys(("feature_input_hook", "feature_output_hook"), (TEXT,)),
}
_NO_BEARING = {"model_name", "scan", "transcoders"}


class CircuitTracerSet(Format):
    """`config.yaml` and `layer_N.safetensors`."""

    name = "circuit_tracer"
    title = "circuit-tracer"
    files = settings, weights = "config.yaml", "layer_*.safetensors"

    def read(self, weights: Path) -> ForeignCoder:
        """Read a layer's transcoder; without `config.yaml` it is not known where it reads.

        Raises:
            UserError: settings that have no equal here, or unusable files.
        """
        found, layer = read_tensors(weights), _FILE.fullmatch(weights.name)
        hooks = _hooks(weights.with_name(self.settings)) if layer else []
        sites = [site_of(f"blocks.{layer[1]}.{hook}") for hook in hooks] if layer else []
        return ForeignCoder(
            kind=JumpReLU,
            form=Form.skip_transcoder if "W_skip" in found else Form.transcoder,
            tensors={_OURS.get(name, name): tensor for name, tensor in found.items()},
            is_relu=not _OURS.keys() & found.keys(),
            about=dict(zip(("site", "target"), sites, strict=False)),
        )


def _hooks(path: Path) -> list[str]:
    """Where a layer is read and written, as `config.yaml` says it; nothing where there is none."""
    if not path.exists():
        return []
    with told_in_one_line(path):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("no settings by name")
    require_understood(path, found, _UNDERSTOOD, _NO_BEARING)
    hooks = (found.get(f"feature_{end}_hook") for end in ("input", "output"))
    return [hook for hook in hooks if hook is not None]
