"""Fuzzing: which tokens a latent fires on."""

from collections.abc import Sequence

import numpy as np

from sae_dist.common.seeds import generator
from sae_dist.explain import prompts
from sae_dist.explain.examples import Sample, Window
from sae_dist.explain.questions import Question
from sae_dist.explain.scorers.detection import Detection


class Fuzzing(Detection):
    """Whether the judge can tell marks on what the latent fires on from marks elsewhere.

    Where it fires, tokens of at least 0.3 of the window's largest activation are marked; where it
    does not, as many as there on average, at places drawn by the window.
    """

    name = "fuzzing"
    heading = "fuzzing"
    definition = (
        "balanced accuracy of telling windows whose active tokens are marked from windows in which "
        "the latent does not fire and as many tokens at random are marked"
    )
    source = "Paulo et al. (2024)"

    def _question(self, sample: Sample, explanation: str, windows: Sequence[Window]) -> Question:
        counts = [prompts.is_marked(w).sum() for w in sample.judged if w.quantile >= 0]
        passages = [prompts.marked(w, _marks(w, round(float(np.mean(counts))))) for w in windows]
        truth = [window.quantile >= 0 for window in windows]
        return prompts.judge(explanation, passages, truth, marked=True)


def _marks(window: Window, count: int) -> np.ndarray:
    if window.quantile >= 0:
        return prompts.is_marked(window)
    places = generator(0, "marks", window.start).permutation(len(window.words))
    return np.isin(np.arange(len(places)), places[: max(1, count)])
