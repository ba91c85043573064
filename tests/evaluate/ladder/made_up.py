"""Rungs with figures that nobody measured."""

from typing import Any


def rung(num_latents: int, k: int | None, **figures: Any) -> dict[str, Any]:
    """A TopK autoencoder of one site, or what `figures` makes of it."""
    return {
        "kind": "topk",
        "form": "autoencoder",
        "site": "mlp_out.3",
        "target": "mlp_out.3",
        "num_latents": num_latents,
        "k": k,
        "target_l0": None,
        "d_in": 8,
        "d_out": 8,
        "l0": float(k or 1),
        "fvu": 0.5,
        "dead_share": 0.0,
        **figures,
    }
