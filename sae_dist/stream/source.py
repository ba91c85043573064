"""What training and evaluation ask of activations, and the answer of a store."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from sae_dist.common.dtypes import from_storage
from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.stream.batches import Batches, BatchPart
from sae_dist.stream.held_out import HeldOutBatch, HeldOutPart, held_out
from sae_dist.stream.order import spread_evenly
from sae_dist.stream.stream import ActivationStream

if TYPE_CHECKING:
    from sae_dist.store import Store

_SAMPLE_CHUNKS = 32  # at least, so that many documents are among them


class ActivationSource(Protocol):
    """Activations of some sites, in an order that a seed fixes.

    Attributes:
        identity: equal only for equal activations; a checkpoint remembers it.
        widths: of each site.
        num_tokens: that an epoch trains on; of a text that is yet to be read about as many.
        num_held_out: sequences that evaluation reads.
        sequence_length: positions of each sequence.
        about: where the activations come from, JSON-able; `lm` in it if from a language model.
    """

    identity: str
    widths: dict[str, int]
    num_tokens: int
    num_held_out: int
    sequence_length: int
    about: dict[str, Any]

    def mean_square(self, site: str) -> float:
        """E‖x‖² over the tokens that are trained on."""

    def sample(self, sites: list[str], num_tokens: int, seed: int) -> dict[str, Tensor]:
        """About `num_tokens` tokens [n, d] of each site, the same ones whoever asks."""

    def batches(self, sites: list[str], part: BatchPart) -> Batches:
        """This rank's part of every global batch, from a step on, for ever."""

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """One part of the sequences for evaluation, in order. A store's are never trained on."""


class StoredActivations:
    """The activations of a sealed store."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.identity = store.hash
        self.widths = dict(store.sites)
        self.num_tokens = min(store.statistics(site).count for site in store.sites)
        self.sequence_length = store.layout.sequence_length
        self.num_held_out = sum(map(len, store.held_out))
        self.about: dict[str, Any] = {**store.provenance, "store": str(store.path)}

    def mean_square(self, site: str) -> float:
        """E‖x‖² over the training shards' trainable tokens, from the manifest."""
        return float(self._store.statistics(site).mean_square)

    def sample(self, sites: list[str], num_tokens: int, seed: int) -> dict[str, Tensor]:
        """`num_tokens` tokens (or all there are), drawn from as many chunks as hold them twice."""
        store, rng = self._store, generator(seed, "sample")
        chunks = spread_evenly(store.unit_of_chunk, rng)
        if not len(chunks):
            raise UserError(f"{store.path} has no trainable tokens outside its held-out shards")
        needed = int(np.searchsorted(store.chunk_rows[chunks].cumsum(), 2 * num_tokens)) + 1
        chunks = chunks[: max(needed, _SAMPLE_CHUNKS)]
        starts = np.concatenate([[0], store.chunk_rows[chunks].cumsum()])
        drawn = np.sort(rng.permutation(starts[-1])[:num_tokens])
        rows = np.split(drawn, np.searchsorted(drawn, starts[1:-1]))
        found = {}
        for site in sites:
            of_chunks = zip(chunks.tolist(), starts, rows, strict=False)
            blocks = [store.read_rows(site, chunk)[own - first] for chunk, first, own in of_chunks]
            found[site] = from_storage(np.concatenate(blocks), store.dtype)
        return found

    def batches(self, sites: list[str], part: BatchPart) -> ActivationStream:
        """See `ActivationStream`."""
        return ActivationStream(self._store, sites, part)

    def held_out(self, sites: list[str], part: HeldOutPart) -> Iterator[HeldOutBatch]:
        """See `stream.held_out`."""
        return held_out(self._store, sites, part)
