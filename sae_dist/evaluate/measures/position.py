"""How well a coder reconstructs at each position of a sequence."""

import torch

from sae_dist.coders import total_variance
from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.measure import Figures, Measure, Subject
from sae_dist.evaluate.output import CoderOutput
from sae_dist.evaluate.summary import ratios
from sae_dist.evaluate.topics import GEMMA_SCOPE, POSITION

POSITION_AXIS = Axis("position in the sequence", log=True)


class ReconstructionByPosition(Measure):
    """The reconstruction loss of every position, not aggregated.

    The mean over tokens of `fvu` is the FVU. Positions without a token have null, and all have no
    `fvu` where the targets are all equal.
    """

    name = "position"
    topic = POSITION
    figures = (
        Figure("by_position/tokens", "", "how many tokens there are at each position"),
        Figure(
            "by_position/mse",
            "",
            "the mean of ‖y − ŷ‖² at each position",
            source=f"{GEMMA_SCOPE}, fig. 3",
        ),
        Figure(
            "by_position/fvu",
            "",
            "that over the mean of ‖y − μ‖² at all positions",
            source=f"{GEMMA_SCOPE}, fig. 3",
        ),
    )
    plots = (
        Plot(
            "fvu-by-position",
            Mark.LINE,
            "FVU by position",
            "The squared error at each position over the variance of the whole set. The "
            "first token, which only marks the beginning, is left out.",
            source=f"{GEMMA_SCOPE}, fig. 3",
            x=POSITION_AXIS,
            y=Axis("FVU (fraction of variance)", "by_position/fvu", log=False),
            panel="family_and_place",
            by_rung=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._tokens_S, self._error_S = self.zeros(2, subject.num_positions)
        self._square, self._sum_E = self.zeros(), self.zeros(subject.coder.d_out)

    def update(self, seen: CoderOutput) -> None:
        """Add some tokens."""
        moments = seen.moments
        self._tokens_S.index_add_(0, seen.position_B, torch.ones_like(moments.error_B))
        self._error_S.index_add_(0, seen.position_B, moments.error_B)
        self._square += moments.square_B.sum()
        self._sum_E += moments.sum_E

    def conclude(self) -> Figures:
        """`by_position`: a list a figure, an entry a position."""
        tokens_S, error_S, tokens = self._tokens_S, self._error_S, self._tokens_S.sum()
        moments = torch.cat([self._sum_E, self._square[None]])
        variance = total_variance(moments, tokens) / tokens
        return {
            "by_position": {
                "tokens": tokens_S.long().tolist(),
                "mse": ratios(error_S, tokens_S),
                "fvu": ratios(error_S, tokens_S * variance),
            }
        }
