"""Detection: which passages a latent fires in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_dist.explain import prompts
from sae_dist.explain.examples import Sample, Window
from sae_dist.explain.questions import Missing, Question
from sae_dist.explain.scorers.ranks import auroc
from sae_dist.explain.scorers.scorer import Scorer


class Detection(Scorer):
    """Whether the judge can tell passages in which the latent fires from others."""

    name = "detection"
    heading = "detection"
    definition = (
        "balanced accuracy of telling windows in which the latent fires, of all quantiles, from "
        "windows in which it does not: (true positive rate + true negative rate) / 2"
    )
    source = "Paulo et al. (2024)"

    def questions(self, sample: Sample, explanation: str) -> list[Question]:
        """Windows in an order that says nothing, `shown` a question."""
        parts = (
            sample.judged[i : i + self.shown] for i in range(0, len(sample.judged), self.shown)
        )
        return [self._question(sample, explanation, part) for part in parts]

    def _question(self, sample: Sample, explanation: str, windows: Sequence[Window]) -> Question:
        passages = [prompts.plain(window) for window in windows]
        return prompts.judge(explanation, passages, [w.quantile >= 0 for w in windows])

    def score(
        self, sample: Sample, questions: Sequence[Question], answers: Sequence[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        """Balanced accuracy, with both rates, the share that was found of each quantile, and the
        AUROC of what was said, where that is more than yes or no.
        """
        told = _numbers(questions, answers)
        said = np.where(np.isnan(told), np.nan, told > 0.5)
        quantiles = np.array([window.quantile for window in sample.judged])
        found = [_mean(said[quantiles == q]) for q in range(quantiles.max() + 1)]
        true_positive, false_positive = _mean(said[quantiles >= 0]), _mean(said[quantiles < 0])
        details = {
            "true_positive_rate": true_positive,
            "false_positive_rate": false_positive,
            "by_quantile": found,
            "auroc": auroc(told, quantiles >= 0),
        }
        if true_positive is None or false_positive is None:
            return None, details
        return (true_positive + 1 - false_positive) / 2, details


def _numbers(questions: Sequence[Question], answers: Sequence[Any]) -> np.ndarray:
    """Of each text how surely it is said to be active, nan where no answer is; float64 [n]."""
    said: list[float] = []
    for question, answer in zip(questions, answers, strict=True):
        is_missing = isinstance(answer, Missing)
        said += [np.nan] * len(question.form.labels) if is_missing else answer
    return np.array(said, np.float64)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
