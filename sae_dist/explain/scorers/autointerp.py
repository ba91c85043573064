"""SAEBench's score of automated interpretability."""

from collections.abc import Sequence
from typing import Any

from sae_dist.explain import prompts
from sae_dist.explain.examples import Sample
from sae_dist.explain.questions import Missing, Question
from sae_dist.explain.scorers.scorer import Scorer


class AutoInterp(Scorer):
    """Whether the judge can tell fourteen passages apart, most of them drawn from anywhere.

    The explanation is one of its own, from ten windows of 21 tokens around the strongest
    activations and five drawn in proportion to activation; judged are two others of either and ten
    from anywhere. Where there are fewer peaks, so are the windows.
    """

    name = "autointerp"
    heading = "SAEBench autointerp"
    definition = (
        "share of 14 windows (2 around the largest activations, 2 drawn by activation, 10 from "
        "anywhere) of which the judge says rightly whether the latent exceeds 1 % of its maximum "
        "there; not balanced: always no gives about 10/14"
    )
    source = "Karvonen et al. (2025)"
    of_peaks = True

    def questions(self, sample: Sample, explanation: str) -> list[Question]:
        """One with all windows."""
        passages = [prompts.plain(window) for window in sample.judged_peaks]
        return [prompts.judge(explanation, passages, self._truth(sample))]

    def score(
        self, sample: Sample, questions: Sequence[Question], answers: Sequence[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        """The share that is right."""
        (answer,) = answers
        if isinstance(answer, Missing):
            return None, {}
        truth = self._truth(sample)
        right = [(said > 0.5) == true for said, true in zip(answer, truth, strict=True)]
        return sum(right) / len(right), {"active": sum(truth), "windows": len(truth)}

    @staticmethod
    def _truth(sample: Sample) -> list[bool]:
        return [prompts.is_active_at_peak(w, sample.max) for w in sample.judged_peaks]
