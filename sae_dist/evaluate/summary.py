"""Many figures as a few, and as JSON can hold them."""

from typing import Any

import torch
from torch import Tensor

_QUANTILES = [0.1, 0.25, 0.5, 0.75, 0.9]


def summary(values: Tensor) -> dict[str, Any]:
    """Mean and quantiles of one figure a latent; null where there is no latent."""
    if not len(values):
        return {"mean": None, "quantiles": {str(q): None for q in _QUANTILES}}
    sorted_values = values.double().sort().values
    places = [round(q * (len(values) - 1)) for q in _QUANTILES]
    quantiles = {str(q): float(sorted_values[p]) for q, p in zip(_QUANTILES, places, strict=True)}
    return {"mean": float(values.double().mean()), "quantiles": quantiles}


def finite(value: Tensor) -> float | None:
    """A number that JSON can hold: None if it is not finite."""
    return float(value) if value.isfinite() else None


def or_null(values: Tensor) -> list[float | None]:
    """A list that JSON can hold: None for what is not finite."""
    finite = torch.isfinite(values).tolist()
    return [v if ok else None for v, ok in zip(values.tolist(), finite, strict=True)]
