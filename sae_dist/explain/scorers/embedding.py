"""Embedding: whose passages mean what the explanation does."""

from collections.abc import Sequence
from typing import Any

from sae_dist.explain import prompts
from sae_dist.explain.examples import Sample
from sae_dist.explain.questions import Likeness, Missing, Question
from sae_dist.explain.scorers.ranks import auroc
from sae_dist.explain.scorers.scorer import Scorer


class Embedding(Scorer):
    """Whether an explanation's embedding is nearer to passages in which the latent fires."""

    name = "embedding"
    heading = "embedding"
    definition = (
        "AUROC of the cosine between embeddings of the explanation and of a window, of windows in "
        "which the latent fires above those in which it does not"
    )
    source = "Paulo et al. (2024)"

    def questions(self, sample: Sample, explanation: str) -> list[Question]:
        """All windows at once."""
        texts = tuple(prompts.plain(window) for window in sample.judged)
        truth = [float(window.quantile >= 0) for window in sample.judged]
        return [Question(prompt=explanation, form=Likeness(texts), truth=truth)]

    def score(
        self, sample: Sample, questions: Sequence[Question], answers: Sequence[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        """The AUROC."""
        (answer,) = answers
        if isinstance(answer, Missing):
            return None, {}
        return auroc(answer, [window.quantile >= 0 for window in sample.judged]), {}
