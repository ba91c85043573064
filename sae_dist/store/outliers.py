"""Tokens left out of training because of their activations: not finite, or far too long.

A unit is a fixed set of tokens, so that what is left out is the same however it is harvested.
"""

from collections.abc import Mapping

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.store.config import NonFinite

_LARGEST_SHARE = 0.02  # of a unit's trainable tokens: more is no outlier


def find_outliers(
    norms: Mapping[str, np.ndarray],
    trainable_T: np.ndarray,
    non_finite: NonFinite,
    max_norm: float | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which of a unit's trainable tokens are left out, bool [T], and how many because of each site.

    Args:
        norms: ‖x‖ of each token at each site, float64 [T]; not finite where x is not.
        trainable_T: the tokens that may be trained on.
        non_finite: whether tokens that are not finite are left out (or stay, to be refused).
        max_norm: times the median norm of the site's trainable tokens; longer ones are left out.

    Raises UserError when it would be more than 2 % of the trainable tokens.
    """
    out = {site: np.zeros_like(trainable_T) for site in norms}
    for site, norms_T in norms.items():
        is_finite_T = np.isfinite(norms_T)
        if non_finite is NonFinite.drop:
            out[site] |= ~is_finite_T
        if max_norm is not None and (counted_T := is_finite_T & trainable_T).any():
            out[site] |= is_finite_T & (norms_T > max_norm * np.median(norms_T[counted_T]))
        out[site] &= trainable_T
    any_T = np.logical_or.reduce(list(out.values()))
    per_site = {site: int(out_T.sum()) for site, out_T in out.items() if out_T.any()}
    if any_T.sum() > _LARGEST_SHARE * trainable_T.sum():
        raise UserError(
            f"found {any_T.sum()} of {trainable_T.sum()} trainable tokens to drop {per_site}; "
            f"expected at most {_LARGEST_SHARE:.0%}; raise writer.max_norm, store as float32, or "
            "look at the language model"
        )
    return any_T, per_site
