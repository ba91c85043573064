"""Goodfire's: one pickle of a ReLU autoencoder, `Llama-3.1-8B-Instruct-SAE-l19.pth`.

Encoders are [F, D], decoders [D, F]; nothing is subtracted from the input. qresearch's coder of
DeepSeek's R1-Distill is such a file with other names in it.
"""

import re
from pathlib import Path

from sae_dist.coders import Form, JumpReLU
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, floats, read_pickle, transposed, unusable

_FILE = re.compile(r".+-SAE-l(\d+)\.pth?")
_NAMES = [
    {
        "W_enc": f"{encoder}.weight",
        "b_enc": f"{encoder}.bias",
        "W_dec": f"{decoder}.weight",
        "b_dec": f"{decoder}.bias",
    }
    for encoder, decoder in (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
]


class Goodfire(Format):
    """`…-SAE-lN.pt` or `.pth`."""

    name = "goodfire"
    title = "Goodfire"
    weights = "*-SAE-l*.pt*"
    files = (weights,)
    is_pickle = True

    def read(self, weights: Path) -> ForeignCoder:
        """Read a layer's autoencoder.

        Raises:
            UserError: other tensors, a pickle of anything else, or an unusable file.
        """
        found, layer = read_pickle(weights), _FILE.fullmatch(weights.name)
        names = next((own for own in _NAMES if found.keys() == {*own.values()}), None)
        if names is None:
            raise unusable(weights, f"tensors {', '.join(sorted(found))}")
        tensors = floats(weights, {ours: found[theirs] for ours, theirs in names.items()})
        site = f"resid_post.{layer[1]}" if layer else None
        return ForeignCoder(
            kind=JumpReLU,
            form=Form.autoencoder,
            tensors=transposed(tensors, "W_dec"),
            is_relu=True,
            about={"site": site, "target": site},
        )
