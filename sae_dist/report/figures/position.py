"""How true the coders are at each position of a sequence."""

from collections.abc import Sequence

from sae_dist.report.figures.figure import GEMMA_SCOPE, Curve, Figure, curve_panels, drawn
from sae_dist.report.results import RungResult, RunResults, at, is_finite_number
from sae_dist.report.styles import Style

_MEASURES = [
    (
        ("by_position", "fvu"),
        "FVU by position",
        "FVU (fraction of variance)",
        (
            "The squared error at each position over the variance of the whole set. The first "
            "token, which only marks the beginning, is left out."
        ),
        "fig. 3",
    ),
    (
        ("delta_loss_by_position",),
        "Delta loss by position",
        "Δ loss (nats a token)",
        (
            "CE(spliced) − CE(clean) of predicting the token that follows each position. With few "
            "sequences this is noisy."
        ),
        "fig. 15",
    ),
]


def position_figures(
    results: RunResults, looks: dict[str, Style], of: RungResult | None = None
) -> list[Figure]:
    """Of all rungs, or of one; positions on a logarithmic axis, as the first ones differ most."""
    rungs = [of] if of else results.rungs
    prefix = f"{looks[of.name].anchor}-" if of else ""
    return drawn(
        [
            Figure(
                title,
                caption,
                curve_panels(
                    f"{prefix}{'-'.join(keys)}",
                    {rung.name: _curve(at(rung.figures, *keys)) for rung in rungs},
                    looks,
                    ("position in the sequence", label),
                    log=(True, False),
                ),
                f"{GEMMA_SCOPE}, {figure}",
            )
            for keys, title, label, caption, figure in _MEASURES
        ]
    )


def _curve(values: Sequence[float | None] | None) -> Curve:
    """Position 0 holds the token that begins every sequence."""
    points = [(p, v) for p, v in enumerate(values or []) if p and is_finite_number(v)]
    return [p for p, _ in points], [float(v or 0.0) for _, v in points]
