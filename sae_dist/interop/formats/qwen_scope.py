"""Qwen-Scope (arXiv 2605.11887): a TopK a layer, `layerN.sae.pt` beside one `config.json`.

`W_enc` is [F, D], `W_dec` [D, F]; nothing is subtracted from the input. The file does not say its
k: `config.json` does, or the repository's name, `SAE-Res-…-W32K-L0_50`.
"""

import re
from pathlib import Path
from typing import Any

from sae_dist.coders import Form, TopK
from sae_dist.common.errors import UserError
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder, floats, read_pickle, transposed
from sae_dist.interop.settings import Understood, read_understood

_FILE = re.compile(r"layer(\d+)\.sae\.pt")
_REPOSITORY = re.compile(r".*SAE-Res-.+-W(\d+)K-L0_(\d+)")
_UNDERSTOOD: Understood = {
    "model_type": ("topk_sae",),
    "hook_point": ("resid_post",),
    **dict.fromkeys(("d_model", "d_sae", "k"), (int,)),
}
_NO_BEARING = {"base_model", "dtype", "num_layers"}


class QwenScope(Format):
    """`config.json` and `layerN.sae.pt`."""

    name = "qwen_scope"
    title = "Qwen-Scope"
    files = settings, weights = "config.json", "layer*.sae.pt"
    is_pickle = True

    def read(self, weights: Path) -> ForeignCoder:
        """Read a layer's autoencoder.

        Raises:
            UserError: another name, no k anywhere, settings that have no equal here, a pickle of
                anything but tensors, or an unusable file.
        """
        settings, layer = self._settings(weights), _FILE.fullmatch(weights.name)
        site = f"resid_post.{layer[1]}" if layer else None
        return ForeignCoder(
            kind=TopK,
            settings={"k": settings["k"]},
            form=Form.autoencoder,
            tensors=transposed(floats(weights, read_pickle(weights)), "W_dec"),
            widths=(settings.get("d_model"), settings.get("d_sae"), settings.get("d_model")),
            about={"site": site, "target": site},
        )

    def _settings(self, weights: Path) -> dict[str, Any]:
        path = weights.with_name(self.settings)
        settings = read_understood(path, _UNDERSTOOD, _NO_BEARING, is_optional=True)
        if "k" in settings:
            return settings
        for name in map(_REPOSITORY.fullmatch, reversed(weights.absolute().parent.parts)):
            if name:
                return {"d_sae": 1024 * int(name[1]), "k": int(name[2])}
        raise UserError(
            f"found no k for {weights}; expected {self.settings} beside it, or a folder that is "
            "called like its repository, as SAE-Res-Qwen3-1.7B-Base-W32K-L0_50; download that, too"
        )
