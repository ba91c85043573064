"""Which latent of a narrower rung each latent splits off from."""

from collections.abc import Iterable, Sequence

import numpy as np

from sae_dist.latents import Latents
from sae_dist.latents.folder import RungAbout

MIN_COSINE = 0.7
"""From which on two latents of different widths are taken for one that was split: where Leask et
al. 2025 (arXiv:2502.04878), section 4, divide latents of a wider coder that a narrower one has from
novel ones.
"""


def narrower(rung: RungAbout, others: Sequence[RungAbout]) -> RungAbout | None:
    """The rung below: the widest that is narrower, of the same kind, form, site and target; of
    several the one whose L0 is nearest.
    """
    below = [
        other
        for other in others
        if other.num_latents < rung.num_latents and _alike(other) == _alike(rung)
    ]
    return max(below, key=lambda own: (own.num_latents, -abs(own.l0 - rung.l0)), default=None)


def parents(latents: Latents, below: RungAbout | None) -> dict[str, np.ndarray]:
    """Of each latent the nearest of the rung below, int32 [F], and their cosine, float32 [F]."""
    beside = latents.beside()
    if below is None or below.rung not in beside:
        return {}
    nearest, cosine = beside[below.rung]
    return {"parents": nearest[:, 0], "cosines": cosine[:, 0]}


def splits(num_latents: int, wider: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Below each latent how many stand, int32 [F], of all rungs whose `parents` are given; nothing
    where there are none.
    """
    below = [own["parents"][own["cosines"] >= MIN_COSINE] for own in wider]
    if not below:
        return {}
    return {"splits": np.bincount(np.concatenate(below), minlength=num_latents).astype(np.int32)}


def _alike(rung: RungAbout) -> tuple[str, ...]:
    return rung.kind, rung.form, rung.site, rung.target
