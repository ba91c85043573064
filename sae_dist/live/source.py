"""What training and evaluation ask of activations, and the answer of a language model."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.common.files import to_json
from sae_dist.common.seeds import generator
from sae_dist.live.held_out import in_parts
from sae_dist.live.passes import Passes
from sae_dist.live.stream import LiveStream
from sae_dist.live.units import TextUnits, Unit
from sae_dist.lm import LM, Capture, resolve, site_widths
from sae_dist.store import NonFinite, StoreConfig
from sae_dist.stream import BatchPart, HeldOutBatch, HeldOutPart
from sae_dist.text import TextConfig

_OPENING_UNITS = 16  # what they hold tells a text from another of the same name
_SAMPLE_TOKENS = 2**14
_SAMPLE_SPREAD = 8  # times as many tokens, among which those are chosen


class LiveActivations:
    """Activations of a language model at some sites as it reads a text, an `ActivationSource`.

    Nothing is written. What `harvest` would put into a store is trained on, in the order of
    `LiveStream`; an epoch is the text's first `num_tokens`, or all it has.

    Args:
        lm: on the device where it is to run.
        sites: their names.
        text: pinned.
        num_tokens: of an epoch.
        writer: of it `dtype` and `held_out`.
        batch_sequences: of a forward pass.

    Raises:
        UserError: for what is not there, and for settings that only a store can follow.
    """

    def __init__(
        self,
        lm: LM,
        sites: list[str],
        text: TextConfig,
        num_tokens: int,
        writer: StoreConfig,
        batch_sequences: int,
    ) -> None:
        check_live(sites, lm.config.tensor, writer)
        self.lm, self._dtype = lm, writer.dtype
        self._units = TextUnits(lm.tokenizer, text, num_tokens, batch_sequences, writer.held_out)
        device = next(lm.model.parameters()).device
        capture = Capture(lm.model, [resolve(lm.model, site) for site in sites])
        self.widths = site_widths(capture, device)
        self.num_tokens = self._units.num_training_tokens
        self.num_held_out = self._units.num_held_out
        self.sequence_length = text.sequence_length
        self._mean_squares: dict[str, float] = {}
        self._first: dict[str, Tensor] = {}  # kept between the two questions of a run's beginning
        self.about: dict[str, Any] = {
            "lm": {**asdict(lm.config), "commit": lm.revision},
            "text": asdict(text),
            "batch_sequences": batch_sequences,
            "store": "live",
        }
        self.identity = f"live sha256:{self._digest(num_tokens, writer)}"

    def mean_square(self, site: str) -> float:
        """E‖x‖² over some 16,384 trainable tokens of the text's beginning.

        Rounded to three digits, so that a run can go on on processors that round differently.
        """
        if not self._mean_squares:
            self._first = self._beginning()
            for name, rows_ND in self._first.items():
                mean = float(rows_ND.double().square().sum(1).mean())
                self._mean_squares[name] = float(f"{mean:.3g}")
        return self._mean_squares[site]

    def sample(self, sites: list[str], num_tokens: int, seed: int) -> dict[str, Tensor]:
        """`num_tokens` (or fewer) of the tokens that `mean_square` is taken over."""
        found = self._first or self._beginning()
        most = len(found[sites[0]])
        drawn = torch.from_numpy(np.sort(generator(seed, "sample").permutation(most)[:num_tokens]))
        return {site: found[site][drawn] for site in sites}

    def batches(self, sites: list[str], part: BatchPart) -> LiveStream:
        """See `LiveStream`."""
        self._first = {}
        widths = {site: self.widths[site] for site in sites}
        passes = Passes(self.lm, sites, self._dtype)
        return LiveStream(self._units, passes, widths, part)

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """One part of the held-out sequences, in order, see `in_parts`.

        Every call reads the text anew, and with `sites` runs the language model. Raises UserError
        when nothing is held out.
        """
        if not self.num_held_out:
            raise UserError("found no held-out sequences; train with harvest.writer.held_out > 0")
        passes = Passes(self.lm, sites, self._dtype) if sites else None
        return in_parts(self._units.held_out(), self.num_held_out, passes, part)

    def _beginning(self) -> dict[str, Tensor]:
        """Rows [n, D] of some units, evenly spaced over the beginning of the text."""
        num_units = -(-_SAMPLE_TOKENS // self._units.unit_tokens)
        first = list(islice(self._units.training(), num_units * _SAMPLE_SPREAD))
        chosen = first[:: max(1, len(first) // num_units)][:num_units]
        if not any(unit.trainable_NS.any() for unit in chosen):
            raise UserError(
                f"found no tokens to train on in {self.about['text']['path']}; expected some "
                "beside those held out; give more text or harvest.tokens, or lower "
                "harvest.harvest.batch_sequences"
            )
        passes = Passes(self.lm, list(self.widths), self._dtype)
        found: dict[str, list[Tensor]] = {site: [] for site in self.widths}
        for unit in chosen:
            trainable_NS = torch.from_numpy(unit.trainable_NS).to(passes.device)
            for site, acts_NSD in passes(unit).items():
                found[site].append(acts_NSD[trainable_NS].cpu())
        return {site: torch.cat(rows) for site, rows in found.items()}

    def _digest(self, num_tokens: int, writer: StoreConfig) -> str:
        """Of all that the activations and their order depend on; the LM may lie elsewhere."""
        digest = hashlib.sha256()
        lm = {key: value for key, value in self.about["lm"].items() if key != "name"}
        settings = {"num_tokens": num_tokens, "dtype": writer.dtype, "held_out": writer.held_out}
        facts = {**self.about, **settings, "lm": lm, "sites": self.widths}
        digest.update(to_json(facts))
        opening: Iterator[Unit] = islice(self._units.training(), _OPENING_UNITS)
        for unit in opening:
            digest.update(unit.ids_NS.astype("<i4").tobytes())
        return digest.hexdigest()


def check_live(sites: list[str], tensor: int, writer: StoreConfig) -> None:
    """Raise UserError for what only a harvest to a store can do."""
    if not sites or len(set(sites)) != len(sites):
        raise UserError(f"harvest.sites={sites}; expected one or more different sites")
    if tensor > 1:
        raise UserError(
            f"harvest.lm.tensor={tensor}; expected 1 with store=live, where each process "
            "holds a language model of its own; harvest to a store"
        )
    if writer.dtype is FloatDtype.int8:
        raise UserError(
            "found harvest.writer.dtype=int8 with store=live; expected bfloat16, float16 or "
            "float32, since nothing is stored; choose one"
        )
    if writer.non_finite is not NonFinite.fail or writer.max_norm is not None:
        raise UserError(
            "found harvest.writer.non_finite or max_norm with store=live; expected neither, since "
            "which tokens are left out must be known before they are seen; harvest to a store"
        )
