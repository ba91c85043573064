"""Latents whose explanation is known, to see what a judge can do before it judges any other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_dist.explain.examples import Fired


class Planted:
    """Latent t fires on each token t, as strongly everywhere.

    Args:
        source: whose sequences these are.
        tokenizer: that of the sequences.
    """

    def __init__(self, source: Fired, tokenizer: Any) -> None:
        self.token_ids_NS, self.trainable_NS = source.token_ids_NS, source.trainable_NS
        self._tokenizer = tokenizer
        self._ids = np.where(self.trainable_NS, self.token_ids_NS, -1).ravel()

    def fired(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Latents.fired`."""
        found = np.flatnonzero(self._ids == latent)
        return found, np.ones(len(found), np.float32)

    @property
    def fired_F(self) -> np.ndarray:
        """On how many tokens each latent fires, int64 [V]; 0 where the token is no word."""
        counts = np.bincount(self._ids[self._ids >= 0])
        is_word = [self._word([token]).strip().isalpha() for token in range(len(counts))]
        return np.where(is_word, counts, 0)

    def explanation(self, latent: int) -> str:
        """What it fires on."""
        return f"the token {self._word([latent])!r}"

    def _word(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
