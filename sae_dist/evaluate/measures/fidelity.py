"""How sparse a code is, and how much of its target it explains."""

import torch

from sae_dist.coders import ROUNDING, total_variance
from sae_dist.common.declare import Axis, Figure, Mark, Plot, Write
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratio
from sae_dist.evaluate.topics import FIDELITY, GEMMA_SCOPE

L0_AXIS = Axis("L0 (active latents a token)", "l0")
WIDTH_AXIS = Axis("width (latents)", "num_latents")
FVU_AXIS = Axis("FVU (fraction of variance)", "fvu")


class Fidelity(Measure):
    """L0 and FVU, with the other figures that go under these names elsewhere.

    Σ‖y-μ‖² = Σ‖y‖² - ‖Σy‖²/N in float64. Two variants depend on `batch_tokens`, and are what others
    report, not what to compare by. What divides by a variance of 0 (up to rounding) is None: of
    targets that are all equal, of batches of one token each, and the mean over tokens if any token
    is its batch's mean.
    """

    name = "fidelity"
    settings = ("batch_tokens",)
    topic = FIDELITY
    group = "Reconstruction"
    figures = (
        Figure("tokens", "", "how many passed", write=Write.COUNT),
        Figure(
            "l0",
            "L0",
            "mean number of latents that are not zero",
            unit="latents a token",
            is_main=True,
        ),
        Figure(
            "fvu",
            "FVU",
            "fraction of variance unexplained, Σ‖y − ŷ‖² / Σ‖y − μ‖² with μ the mean "
            "over the whole set",
            source=f"{GEMMA_SCOPE}, 4.1",
            is_main=True,
        ),
        Figure(
            "variance_explained",
            "variance explained",
            "1 − FVU; of a decoder’s directions a meta-SAE’s figure",
            source="Leask et al. (2025), section 5",
            write=Write.PERCENT,
        ),
        Figure(
            "fvu_variants/error_variance",
            "FVU, error variance",
            "Σ‖e − ē‖² / Σ‖y − μ‖² with e = y − ŷ and ē its mean, blind to a constant "
            "error: “FVU” in dictionary_learning",
        ),
        Figure(
            "fvu_variants/batch_mean",
            "FVU, batch mean",
            "Σ‖y − ŷ‖² / Σ‖y − ȳ‖², ȳ the mean of the token’s batch of `batch_tokens`: "
            "“FVU” in sparsify",
        ),
        Figure(
            "fvu_variants/token_mean",
            "FVU, token mean",
            "mean over tokens of ‖y − ŷ‖² / ‖y − ȳ‖²: “legacy” in SAELens",
        ),
    )
    plots = (
        Plot(
            "fvu-l0",
            Mark.POINTS,
            "FVU against L0",
            "Fraction of variance unexplained, Σ‖y − ŷ‖² / Σ‖y − μ‖² with μ the mean over "
            "the whole evaluation set, against the mean number of active latents a token. Down and "
            "left is better; lines join coders of one width and kind.",
            source=f"{GEMMA_SCOPE}, figs. 13 and 14",
            x=L0_AXIS,
            y=FVU_AXIS,
            panel="place",
            join=True,
        ),
        Plot(
            "fvu-width",
            Mark.POINTS,
            "FVU against width",
            "Fraction of variance unexplained by number of latents; lines join coders of "
            "one kind and k. Those of JumpReLU differ in L0 as well.",
            x=WIDTH_AXIS,
            y=FVU_AXIS,
            panel="place",
            join=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._tokens, self._active, self._error, self._square = self.zeros(4)
        self._within, self._ratios, self._without = self.zeros(3)
        self._sum_E, self._error_sum_E = self.zeros(2, subject.coder.d_out)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens; they count as one batch."""
        if not len(seen):
            return
        moments = seen.moments
        self._tokens += len(seen)
        self._active += len(seen.active[1])
        self._error += moments.error_B.sum()
        self._square += moments.square_B.sum()
        within_B = moments.within_B.where(moments.within_B > ROUNDING * moments.square_B, 0.0)
        self._within += within_B.sum()
        self._ratios += (moments.error_B / within_B).where(within_B > 0, 0.0).sum()
        self._without += (within_B == 0).sum()
        self._sum_E += moments.sum_E
        self._error_sum_E += moments.error_sum_E

    def conclude(self) -> Figures:
        """L0, FVU and its variants, and the number of tokens."""
        tokens, error, active = self._tokens, self._error, self._active
        variation = total_variance(torch.cat([self._sum_E, self._square[None]]), tokens)
        varying_error = error - self._error_sum_E.square().sum() / tokens
        return {
            "tokens": int(tokens),
            "l0": ratio(self.mesh.latent.all_reduce(active), tokens),
            "fvu": ratio(error, variation),
            "variance_explained": ratio(variation - error, variation),
            "fvu_variants": {
                "error_variance": ratio(varying_error, variation),
                "batch_mean": ratio(error, self._within),
                "token_mean": None if self._without else ratio(self._ratios, tokens),
            },
        }
