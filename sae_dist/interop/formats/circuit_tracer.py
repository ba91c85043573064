"""circuit-tracer's sets of transcoders: `layer_N.safetensors` of each layer beside a `config.yaml`.

`W_enc` and `W_dec` are [F, D], nothing is subtracted from the input, and W_skip [D, D] is applied
as x W_skipᵀ. Without `activation_function.threshold` it is a ReLU, whatever `config.yaml` says.
Such sets are written by `sae-dist export run=NAME to=circuit_tracer`.
"""

import re
from pathlib import Path

from sae_dist.coders import Form, JumpReLU
from sae_dist.common.hooks import site_of
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, read_tensors
from sae_dist.interop.settings import TEXT, Understood, read_understood

_FILE = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_HOOKS = {"site": "feature_input_hook", "target": "feature_output_hook"}
_UNDERSTOOD: Understood = {
    "model_kind": ("transcoder_set",),
    **dict.fromkeys(_HOOKS.values(), (TEXT,)),
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
        path = weights.with_name(self.settings)
        settings = read_understood(path, _UNDERSTOOD, _NO_BEARING, is_optional=True)
        about = {
            end: site_of(f"blocks.{layer[1]}.{settings[hook]}")
            for end, hook in _HOOKS.items()
            if layer and settings.get(hook)
        }
        return ForeignCoder(
            kind=JumpReLU,
            form=Form.skip_transcoder if "W_skip" in found else Form.transcoder,
            tensors={"threshold" if n == _THRESHOLD else n: tensor for n, tensor in found.items()},
            is_relu=_THRESHOLD not in found,
            about=about,
        )
