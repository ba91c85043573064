"""Many figures as a few, and what is defined of them."""

from typing import Any

import torch
from torch import Tensor

_QUANTILES = [0.1, 0.25, 0.5, 0.75, 0.9]
_NARROW = 1e-6  # of the values: where they differ by less, a histogram shows that they are one


def summary(values: Tensor) -> dict[str, Any]:
    """Mean and quantiles of one figure a latent; null where there is no latent."""
    if not len(values):
        return {"mean": None, "quantiles": {str(q): None for q in _QUANTILES}}
    sorted_values = values.double().sort().values
    places = [round(q * (len(values) - 1)) for q in _QUANTILES]
    quantiles = {str(q): float(sorted_values[p]) for q, p in zip(_QUANTILES, places, strict=True)}
    return {"mean": float(values.double().mean()), "quantiles": quantiles}


def histogram(values: Tensor, num_bins: int) -> dict[str, Any]:
    """`edges` from the least to the largest value, and `counts` between them.

    Values that are all (or nearly) equal stand in the middle of edges from half to one and a half
    times that, of zeros from -0.5 to 0.5.
    """
    low, high = (v.double() for v in values.aminmax())
    size = torch.maximum(low.abs(), high.abs())
    if high - low <= _NARROW * size:
        margin = size / 2 if size > 0 else 0.5
        low, high = low - margin, high + margin
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64, device=values.device)
    edges = low + (high - low) * edges
    bins = torch.bucketize(values.double(), edges[1:-1], right=True)
    return {"edges": edges.tolist(), "counts": torch.bincount(bins, minlength=num_bins).tolist()}


def ratio(numerator: Tensor, denominator: Tensor) -> float | None:
    """A ratio of sums; None where the denominator is 0."""
    return float(numerator / denominator) if denominator else None


def ratios(numerators: Tensor, denominators: Tensor) -> list[float | None]:
    """Several of them, of one denominator or as many."""
    defined = (denominators != 0).expand_as(numerators).tolist()
    values = (numerators / denominators).tolist()
    return [v if ok else None for v, ok in zip(values, defined, strict=True)]
