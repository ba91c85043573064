"""In which direction a reconstruction points, and how long it is: SAEBench's core figures."""

from sae_dist.common.declare import Figure
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratio
from sae_dist.evaluate.topics import FIDELITY, SAEBENCH


class Similarity(Measure):
    """Figures of y and ŷ token by token.

    A token of zeros, or one reconstructed as zeros, has a cosine of 0. None where they divide by 0:
    if any token is of zeros there is no mean norm ratio, and if all products are 0 no bias.
    """

    name = "similarity"
    topic = FIDELITY
    group = "Reconstruction"
    figures = (
        Figure("cosine_similarity", "cosine", "mean of cos(y, ŷ)", source=SAEBENCH),
        Figure("l2_norm_ratio", "norm ratio", "mean of ‖ŷ‖ / ‖y‖", source=SAEBENCH),
        Figure(
            "relative_reconstruction_bias",
            "bias",
            "relative reconstruction bias, E‖ŷ‖² / E⟨y, ŷ⟩: less than 1 where a coder shrinks",
            source=SAEBENCH,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._tokens, self._cosine, self._ratio, self._zeros = self.zeros(4)
        self._square, self._product = self.zeros(2)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        moments = seen.moments
        y_norm_B, ŷ_norm_B = moments.square_B.sqrt(), moments.reconstruction_square_B.sqrt()
        self._tokens += len(seen)
        norms_B = y_norm_B * ŷ_norm_B
        self._cosine += (moments.product_B / norms_B).where(norms_B != 0, 0.0).sum()
        self._ratio += (ŷ_norm_B / y_norm_B).where(y_norm_B != 0, 0.0).sum()
        self._zeros += (y_norm_B == 0).sum()
        self._square += moments.reconstruction_square_B.sum()
        self._product += moments.product_B.sum()

    def conclude(self) -> Figures:
        """All three, over all tokens."""
        return {
            "cosine_similarity": ratio(self._cosine, self._tokens),
            "l2_norm_ratio": None if self._zeros else ratio(self._ratio, self._tokens),
            "relative_reconstruction_bias": ratio(self._square, self._product),
        }
