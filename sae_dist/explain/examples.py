"""The windows of text that a latent is explained and judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.explain.config import ExamplesConfig

_LEAST = 1e-5  # a smaller activation is none (delphi)
_AROUND = 10  # tokens to each side of a peak (SAEBench)
_TOP, _TOP_SCORED, _WEIGHTED, _WEIGHTED_SCORED, _ANYWHERE = 12, 2, 7, 2, 10  # (SAEBench)
_DRAWN = 50 * _ANYWHERE  # of which those are taken that share no token with others


class Fired(Protocol):
    """Sequences, and where latents fire in them: a rung's `Latents`, or made-up ones."""

    @property
    def token_ids_NS(self) -> np.ndarray:
        """The sequences."""

    @property
    def trainable_NS(self) -> np.ndarray:
        """Which of their tokens count."""

    def fired(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens on which it fires, rising, int64 [m], and its activations [m]."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Some tokens of a sequence, and how strongly a latent fires on each.

    Attributes:
        words: the tokens' texts, which together are the window's.
        values: sizes of activations, float32 [w].
        quantile: from 0, the strongest; -1 where the latent does not fire.
        start: the first token's number.
    """

    words: tuple[str, ...]
    values: np.ndarray
    quantile: int
    start: int

    @property
    def max(self) -> float:
        """The largest activation."""
        return float(self.values.max())


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What is shown of one latent.

    Attributes:
        max: its largest activation anywhere.
        explained: windows for the explainer, the strongest quantile first.
        judged: others for the judge, active and not, in an order that says nothing.
        peaks, judged_peaks: windows around tokens, after SAEBench, for either.
    """

    latent: int
    max: float
    explained: list[Window]
    judged: list[Window]
    peaks: list[Window]
    judged_peaks: list[Window]


class Examples:
    """Draws windows of latents, the same from the same seed, whichever others are drawn.

    Raises:
        UserError: sequences are shorter than a window.
    """

    def __init__(self, source: Fired, tokenizer: Any, config: ExamplesConfig, seed: int) -> None:
        self.source, self.tokenizer, self.config, self.seed = source, tokenizer, config, seed
        self.length, window = source.token_ids_NS.shape[1], config.window
        self.per_sequence = self.length // window
        if not self.per_sequence:
            raise UserError(
                f"found examples.window={window} beside sequences of {self.length} tokens; "
                f"expected at most {self.length}; lower it"
            )

    @cached_property
    def _counts_W(self) -> np.ndarray:
        """Which windows have a token that counts: one of special tokens alone shows nothing."""
        whole = self.per_sequence * self.config.window
        trainable = np.asarray(self.source.trainable_NS[:, :whole])
        return np.asarray(np.any(trainable.reshape(-1, self.config.window), axis=1))

    @cached_property
    def _trainable(self) -> np.ndarray:
        return np.flatnonzero(np.asarray(self.source.trainable_NS))

    def has_enough(self, latent: int) -> bool:
        """Whether a latent fires in enough windows, and not in nearly all."""
        return self._windows(*self._fired(latent)) is not None

    @lru_cache(maxsize=4)  # noqa: B019 (it lives as long as its command)
    def of(self, latent: int) -> Sample | None:
        """What is shown of a latent; None where it has not enough windows."""
        config, (tokens, values) = self.config, self._fired(latent)
        if (found := self._windows(tokens, values)) is None:
            return None
        ranked, idle = found
        rng = generator(self.seed, "windows", latent)
        explained, judged = [], []
        for quantile, part in enumerate(np.array_split(ranked, config.quantiles)):
            drawn = [(int(window), quantile) for window in rng.permutation(part)]
            explained += drawn[: config.explain]
            judged += drawn[config.explain : config.explain + config.score]
        judged += [(int(w), -1) for w in rng.choice(idle, config.inactive, replace=False)]
        order = rng.permutation(len(judged))

        def window(number: int, quantile: int) -> Window:
            sequence, place = divmod(number, self.per_sequence)
            start = sequence * self.length + place * config.window
            return self._window(tokens, values, start, config.window, quantile)

        peaks, judged_peaks = self._around_peaks(latent, tokens, values)
        return Sample(
            latent,
            float(values.max()),
            [window(*one) for one in explained],
            [window(*judged[i]) for i in order],
            peaks,
            judged_peaks,
        )

    def _windows(
        self, tokens: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The windows in which it fires, the strongest first, and others; None if too few."""
        window = self.config.window
        sequences, positions = np.divmod(tokens, self.length)
        windows = sequences * self.per_sequence + positions // window
        is_inside = positions < self.per_sequence * window
        max_W = np.zeros(len(self._counts_W), np.float32)
        np.maximum.at(max_W, windows[is_inside], values[is_inside])
        active, idle = np.flatnonzero(max_W), np.flatnonzero((max_W == 0) & self._counts_W)
        if len(active) < self.config.min_windows or len(idle) < self.config.inactive:
            return None
        return active[np.argsort(-max_W[active], kind="stable")], idle

    def _fired(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, values = self.source.fired(latent)
        sizes = np.abs(values)  # of an AbsTopK's, too
        fires = sizes > _LEAST
        return tokens[fires], sizes[fires]

    def _around_peaks(
        self, latent: int, tokens: np.ndarray, values: np.ndarray
    ) -> tuple[list[Window], list[Window]]:
        """SAEBench's: the strongest, some drawn by activation below those, and some from anywhere.

        None of them share a token; fewer where there are not enough.
        """
        rng = generator(self.seed, "peaks", latent)
        taken: list[int] = []
        top = self._apart(tokens[np.argsort(-values, kind="stable")], taken, _TOP)
        least = values[np.searchsorted(tokens, top)].min() if top else 0.0
        below = values < least
        keys = np.log(rng.random(below.sum())) / values[below]  # drawn in proportion to `values`
        weighted = self._apart(tokens[below][np.argsort(-keys)], taken, _WEIGHTED)
        anywhere = self._trainable[rng.integers(len(self._trainable), size=_DRAWN)]
        random = self._apart(anywhere, taken, _ANYWHERE)
        top, weighted = list(rng.permutation(top)), list(rng.permutation(weighted))
        shown = [*top[_TOP_SCORED:], *weighted[_WEIGHTED_SCORED:]]
        judged = [*top[:_TOP_SCORED], *weighted[:_WEIGHTED_SCORED], *random]

        def windows(peaks: Sequence[int]) -> list[Window]:
            width = 2 * _AROUND + 1
            return [self._window(tokens, values, int(p) - _AROUND, width, -1) for p in peaks]

        ranked = sorted(windows(shown), key=lambda window: -window.max)
        return ranked, windows([int(p) for p in rng.permutation(judged)])

    def _apart(self, ranked: np.ndarray, taken: list[int], most: int) -> list[int]:
        """The first so many whose windows lie in their sequence and share no token with `taken`."""
        found: list[int] = []
        for token in map(int, ranked):
            if len(found) == most:
                break
            is_inside = _AROUND <= token % self.length < self.length - _AROUND
            if is_inside and all(abs(token - other) > 2 * _AROUND for other in taken):
                found.append(token)
                taken.append(token)
        return found

    def _window(
        self, tokens: np.ndarray, values: np.ndarray, start: int, width: int, quantile: int
    ) -> Window:
        found = slice(*np.searchsorted(tokens, [start, start + width]))
        dense = np.zeros(width, np.float32)
        dense[tokens[found] - start] = values[found]
        sequence, first = divmod(start, self.length)
        ids = self.source.token_ids_NS[sequence, first : first + width]
        return Window(words_of(self.tokenizer, ids.tolist()), dense, quantile, start)


def words_of(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token: what it adds to that of those before it.

    A character of several tokens stands at its last one.
    """
    words, said = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        whole = text.removesuffix("�") if count < len(ids) else text
        words.append(whole[len(said) :])
        said = whole if len(whole) > len(said) else said
    return tuple(words)
