"""What explanations of a rung's latents are worth together: figures and plots of the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sae_dist.common.declare import Axis, Figure, Mark, Plot, Topic, Write
from sae_dist.evaluate.registry import Declared, Needs
from sae_dist.evaluate.topics import TRANSCODERS
from sae_dist.explain.scorers import SCORERS, Scorer
from sae_dist.latents import Explanation

EXPLANATIONS = Topic(
    key="explanations",
    title="Explanations",
    lead="How far a judge can foresee where latents fire from what an explainer says of them. All "
    "figures are this explainer's and this judge's; the shuffled ones, by other latents' "
    "explanations, are what no explanation is worth.",
)
_MAIN = ("detection", "fuzzing")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def _scorers() -> list[type[Scorer]]:
    return [SCORERS.named(name) for name in SCORERS.names()]


class Explanations(Declared):
    """How well explanations of latents let a judge foresee where they fire.

    By `sae-dist explain`: docs/explanations.md.
    """

    name = "explanations"
    needs = Needs.JUDGE
    topic = EXPLANATIONS
    group = "Explanations"
    caption = "Means over the latents that were scored."
    figures = (
        Figure(
            "interpretability/mean",
            "interpretability",
            "mean of detection and fuzzing, mean over latents",
            source=f"{TRANSCODERS}, fig. 1",
            is_main=True,
        ),
        *(
            Figure(
                f"scores/{s.name}/mean",
                s.heading,
                f"{s.definition}; mean over latents",
                source=s.source,
            )
            for s in _scorers()
        ),
        *(
            Figure(
                f"scores/{s.name}/shuffled/mean",
                f"{s.heading}, shuffled",
                "the same by another latent's explanation",
            )
            for s in _scorers()
        ),
        *(
            Figure(
                f"scores/{name}/auroc/mean",
                f"{name}, AUROC",
                "the same of how surely the judge says so, whatever it takes for a yes; of a judge "
                "that writes 0 or 1 the balanced accuracy",
            )
            for name in _MAIN
        ),
        Figure("explained", "latents explained", write=Write.COUNT),
    )
    plots = (
        Plot(
            "interpretability",
            Mark.POINTS,
            "Interpretability against what the language model loses",
            "Mean of detection and fuzzing over the latents that were scored, against 100 · "
            "(CE(spliced) − CE(clean)) / CE(clean). Up and to the left is better; lines join "
            "coders of one kind.",
            source=f"{TRANSCODERS}, fig. 1",
            x=Axis("CE increase (%)", "ce_increase_percent", log=False, zero=True),
            y=Axis("interpretability", "interpretability/mean", log=False),
            panel="num_latents",
            join=True,
        ),
        *(
            Plot(
                f"{name}-latents",
                Mark.SPANS,
                f"{name.capitalize()} of single latents",
                "Over the latents that were scored: their median (dot), mean (diamond), middle "
                "half (thick) and middle four fifths (thin line).",
                source=f"{TRANSCODERS}, fig. 2, left",
                x=Axis("balanced accuracy"),
                y=Axis("balanced accuracy", f"scores/{name}"),
            )
            for name in _MAIN
        ),
        *(
            Plot(
                f"{name}-quantiles",
                Mark.LINE,
                f"{name.capitalize()} from strong to weak activations",
                "Share of the windows of each quantile of activation, from the strongest (1), in "
                "which the judge says that the latent fires; mean over latents.",
                source=f"{TRANSCODERS}, fig. 2, right",
                x=Axis("quantile of activation", f"scores/{name}/quantile", log=False),
                y=Axis("share found", f"scores/{name}/by_quantile", log=False),
            )
            for name in _MAIN
        ),
    )


def summarise(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """The figures of some latents' explanations.

    Returns:
        `explainer`, `judge`; `explained`; `interpretability` and by scorer `scores`, each as
        mean, standard deviation, number of latents with one and quantiles over them; of scorers
        also `shuffled` and `auroc`, likewise, and means `by_quantile` of activation.
    """
    scores: dict[str, Any] = {}
    for name in sorted({name for one in explanations for name in one.scores}):
        told = [one.details.get(name, {}) for one in explanations if name in one.scores]
        by_quantile = [t["by_quantile"] for t in told if t.get("by_quantile")]
        scores[name] = _over_latents([one.scores.get(name) for one in explanations]) | {
            "shuffled": _over_latents([t.get("shuffled") for t in told]),
            "auroc": _over_latents([t.get("auroc") for t in told]),
            "missing": sum(t["missing"] for t in told),
            "asked": sum(t["asked"] for t in told),
        }
        if by_quantile:
            rows = np.array(by_quantile, np.float64)  # None is nan
            means = [_over_latents(list(column))["mean"] for column in rows.T]
            scores[name] |= {"by_quantile": means, "quantile": list(range(1, len(means) + 1))}
    both: list[list[Any]] = [[one.scores.get(name) for name in _MAIN] for one in explanations]
    return {
        "explainer": explanations[0].explainer,
        "judge": explanations[0].judge,
        "explained": len(explanations),
        "interpretability": _over_latents(
            [None if None in pair else float(np.mean(pair)) for pair in both]
        ),
        "scores": scores,
    }


def _over_latents(values: Sequence[float | None]) -> dict[str, Any]:
    known = np.array([v for v in values if v is not None and not np.isnan(v)], np.float64)
    is_any = len(known) > 0
    quantiles = np.quantile(known, _QUANTILES).tolist() if is_any else [None] * len(_QUANTILES)
    return {
        "mean": float(known.mean()) if is_any else None,
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "latents": len(known),
        "quantiles": {str(q): value for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }
