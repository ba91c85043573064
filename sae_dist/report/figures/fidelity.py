"""How true the coders are, and how sparse."""

from sae_dist.report.figures.figure import GEMMA_SCOPE, Figure, drawn
from sae_dist.report.figures.scatter import L0_AXIS, WIDTH_AXIS, Axis, scatter_by_place
from sae_dist.report.measures import DELTA_LOSS, FVU
from sae_dist.report.results import RunResults
from sae_dist.report.styles import Style

_FVU = Axis("FVU (fraction of variance)", FVU)
_DELTA_LOSS = Axis("Δ loss (nats a token)", DELTA_LOSS)


def fidelity_figures(results: RunResults, looks: dict[str, Style]) -> list[Figure]:
    """FVU and delta loss against L0, and FVU against width; a panel a site."""

    def panels(key: str, x: Axis, y: Axis) -> list:
        return scatter_by_place(results, looks, key, x, y)

    return drawn(
        [
            Figure(
                "FVU against L0",
                "Fraction of variance unexplained, Σ‖y − ŷ‖² / Σ‖y − μ‖² with μ the mean over the "
                "whole evaluation set, against the mean number of active latents a token. "
                "Down and left is better; lines join coders of one width and kind.",
                panels("fvu-l0", L0_AXIS, _FVU),
                f"{GEMMA_SCOPE}, figs. 13 and 14",
            ),
            Figure(
                "Delta loss against L0",
                "CE(spliced) − CE(clean): how much the language model’s cross-entropy rises when "
                "the coder’s output takes the place of what it reconstructs; mean over predicted "
                "non-special tokens. Down and left is better; lines join coders of one width and "
                "kind.",
                panels("delta-loss-l0", L0_AXIS, _DELTA_LOSS),
                f"{GEMMA_SCOPE}, figs. 2 and 4",
            ),
            Figure(
                "FVU against width",
                "Fraction of variance unexplained by number of latents; lines join coders of one "
                "kind and k. Those of JumpReLU differ in L0 as well.",
                panels("fvu-width", WIDTH_AXIS, _FVU),
            ),
            Figure(
                "Delta loss against width",
                "The rise of the language model’s cross-entropy by number of latents.",
                panels("delta-loss-width", WIDTH_AXIS, _DELTA_LOSS),
            ),
        ]
    )
