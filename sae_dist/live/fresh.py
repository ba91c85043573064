"""A text that nobody trained on, and what a language model makes of it."""

from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.files import to_json
from sae_dist.live.held_out import in_parts
from sae_dist.live.passes import Passes
from sae_dist.live.units import TextUnits
from sae_dist.lm import LM, Capture, resolve, site_widths
from sae_dist.stream import HeldOutBatch, HeldOutPart
from sae_dist.text import TextConfig


class FreshText:
    """The first sequences of a text, all to be looked at, with activations in float32.

    Nothing is written, and nothing trained on. `held_out` is that of an `ActivationSource`.

    Args:
        lm: on the device where it is to run.
        sites: their names.
        text: pinned.
        num_sequences: what is left of the last forward pass of them is read, too.
        batch_sequences: of a forward pass.
    """

    def __init__(
        self, lm: LM, sites: list[str], text: TextConfig, num_sequences: int, batch_sequences: int
    ) -> None:
        num_passes = -(-num_sequences // batch_sequences)
        num_tokens = num_passes * batch_sequences * text.sequence_length
        self.lm, self.num_held_out = lm, num_sequences
        self.sequence_length = text.sequence_length
        self._units = TextUnits(lm.tokenizer, text, num_tokens, batch_sequences, 0.0)
        capture = Capture(lm.model, [resolve(lm.model, site) for site in sites])
        self.widths = site_widths(capture, next(lm.model.parameters()).device)
        self.about: dict[str, Any] = {
            "lm": {**asdict(lm.config), "commit": lm.revision},
            "text": asdict(text),
            "batch_sequences": batch_sequences,
            "store": None,
        }
        facts = self.about | {"lm": lm.revision}
        self.identity = f"text sha256:{sha256(to_json(facts)).hexdigest()}"

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """One part of the sequences, in order; every call reads the text anew."""
        passes = Passes(self.lm, sites, FloatDtype.float32) if sites else None
        return in_parts(self._units.training(), self.num_held_out, passes, part)
