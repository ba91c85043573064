"""Our own files, for the Hub and for whoever has sae_dist: every coder fits."""

from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import Coder, Form, Inputs, describe_coder, load_coder, save_coder
from sae_dist.coders.files import DESCRIPTION, WEIGHTS
from sae_dist.common.errors import UserError
from sae_dist.interop.format import Format
from sae_dist.interop.published import ForeignCoder


class Native(Format):
    """`coder.json` and `coder.safetensors`, as training writes them."""

    name = title = "sae_dist"
    files = DESCRIPTION, WEIGHTS
    weights = WEIGHTS
    forms = tuple(Form)
    signed = True
    inputs = tuple(Inputs)

    def write(self, folder: Path, coder: Coder, about: dict[str, Any]) -> None:
        save_coder(folder, coder, coder.state_dict(), about)

    def read(self, weights: Path) -> ForeignCoder:
        raise UserError(
            f"{weights.parent} is a coder of ours already; expected one of another library; use it "
            "where it is, or copy it"
        )

    def load(self, weights: Path, device: torch.device | str, part: int, parts: int) -> Coder:
        return load_coder(weights.parent, device, part=part, parts=parts)

    def load_described(
        self, weights: Path, device: torch.device | str
    ) -> tuple[Coder, dict[str, Any]]:
        return load_coder(weights.parent, device), describe_coder(weights.parent)["about"]
