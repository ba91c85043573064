"""Tokens left out of training because of their activations: not finite, or far too long.

A unit is a fixed set of tokens, so that what is dropped is the same however it is harvested.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.store.config import NonFinite

_MOST = 0.02  # of a unit's trainable tokens: more is no outlier


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """What is dropped of one unit.

    `positions` (sequence in the unit · S + position, ascending), and for how many of them each
    site is to blame; a token may be counted at several.
    """

    positions: tuple[int, ...]
    per_site: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """`positions` travel as base64 of little-endian uint32."""
        coded = base64.b64encode(np.array(self.positions, "<u4").tobytes()).decode()
        return {"positions": coded, "per_site": self.per_site}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        positions = np.frombuffer(base64.b64decode(value["positions"]), "<u4")
        return cls(positions=tuple(positions.tolist()), per_site=value["per_site"])

    def problems(self, unit: int, num_tokens: int) -> Iterator[str]:
        """What it cannot say of a unit of so many tokens."""
        places = self.positions
        is_sorted = list(places) == sorted(set(places))
        if not is_sorted or not places or places[0] < 0 or places[-1] >= num_tokens:
            said = f"dropped tokens {places!s:.60} in unit {unit}"
            yield f"{said}; expected 0 to {num_tokens - 1} once each, in order"


def drop(
    norms: dict[str, np.ndarray], trainable_T: np.ndarray, non_finite: NonFinite, most: float | None
) -> Dropped | None:
    """Which of a unit's trainable tokens are dropped; None if none is.

    Args:
        norms: ‖x‖ of each token at each site, float64 [T]; not finite where x is not.
        trainable_T: the tokens that may be trained on.
        non_finite: whether tokens that are not finite are dropped (or left, to be refused).
        most: times the median norm of the site's trainable tokens; longer ones are dropped.

    Raises UserError when it would be more than 2 % of the trainable tokens.
    """
    out = {site: np.zeros_like(trainable_T) for site in norms}
    for site, norms_T in norms.items():
        is_finite_T = np.isfinite(norms_T)
        if non_finite is NonFinite.drop:
            out[site] |= ~is_finite_T
        if most is not None and (counted_T := is_finite_T & trainable_T).any():
            out[site] |= is_finite_T & (norms_T > most * np.median(norms_T[counted_T]))
        out[site] &= trainable_T
    positions = np.flatnonzero(np.logical_or.reduce(list(out.values())))
    per_site = {site: int(out_T.sum()) for site, out_T in out.items() if out_T.any()}
    if len(positions) > _MOST * trainable_T.sum():
        raise UserError(
            f"found {len(positions)} of {trainable_T.sum()} trainable tokens to drop {per_site}; "
            f"expected at most {_MOST:.0%}; raise writer.max_norm, store as float32, or look at "
            "the language model"
        )
    if not len(positions):
        return None
    return Dropped(positions=tuple(positions.tolist()), per_site=per_site)


def without(trainable: np.ndarray, dropped: Dropped | None) -> np.ndarray:
    """`trainable` [n, S] of a unit, false where tokens were dropped."""
    if dropped is None:
        return trainable
    kept = trainable.copy()
    kept.reshape(-1)[list(dropped.positions)] = False
    return kept
