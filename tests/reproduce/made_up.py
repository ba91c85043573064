"""Evaluations made up by hand."""

from typing import Any


def rung(
    num_latents: int = 256,
    l0: float = 8.0,
    fvu: float = 0.2,
    kind: str = "topk",
    form: str = "autoencoder",
    site: str = "resid_post.2",
    **more: Any,
) -> dict[str, Any]:
    figures = {
        "kind": kind,
        "form": form,
        "site": site,
        "target": site,
        "num_latents": num_latents,
        "l0": l0,
        "fvu": fvu,
        "delta_loss": fvu / 2,
        "firing_frequency": {"edges_log10": [-3.0, -2.0, -1.0], "never": 0, "counts": [1, 1]},
        "by_position": {"tokens": [0] + [10] * 15, "fvu": [None] + [0.1] * 15},
        "uniformity": {"r_l0": None},
    }
    return figures | more


def evaluation(**rungs: dict[str, Any]) -> dict[str, Any]:
    return {"run": "made-up", "tokens": 1000, "rungs": rungs}
