"""Simulation: how strongly a latent fires, token by token."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_dist.explain import prompts
from sae_dist.explain.examples import Sample, Window
from sae_dist.explain.questions import Missing, Question
from sae_dist.explain.scorers.scorer import Scorer


class Simulation(Scorer):
    """Whether the judge can foresee the latent's activations where it fires."""

    name = "simulation"
    heading = "simulation"
    definition = (
        "Pearson correlation of activations and of what the judge foresees from 0 to 10 for each "
        "token of windows of all quantiles, all tokens together"
    )
    source = "Bills et al. (2023)"

    def questions(self, sample: Sample, explanation: str) -> list[Question]:
        """One a window in which the latent fires."""
        windows = self._windows(sample)
        return [prompts.simulate(explanation, w, sample.max, self.scale) for w in windows]

    def score(
        self, sample: Sample, questions: Sequence[Question], answers: Sequence[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        """The correlation; undefined where all that is foreseen is the same."""
        known = [
            (window.values, np.asarray(answer), window.quantile)
            for window, answer in zip(self._windows(sample), answers, strict=True)
            if not isinstance(answer, Missing)
        ]
        quantiles = range(1 + max((w.quantile for w in sample.judged), default=-1))
        of_quantile = [[(v, a) for v, a, q in known if q == quantile] for quantile in quantiles]
        details = {"by_quantile": [_pearson(pairs) for pairs in of_quantile]}
        return _pearson([(v, a) for v, a, _ in known]), details

    @staticmethod
    def _windows(sample: Sample) -> list[Window]:
        return [window for window in sample.judged if window.quantile >= 0]


def _pearson(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    if not pairs:
        return None
    true = np.concatenate([values for values, _ in pairs]).astype(np.float64)
    foreseen = np.concatenate([said for _, said in pairs]).astype(np.float64)
    if np.ptp(true) == 0 or np.ptp(foreseen) == 0:
        return None
    return float(np.corrcoef(true, foreseen)[0, 1])
