"""Running sums of activations: what normalisation needs, without another pass over the store."""

import base64
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from sae_dist.common.errors import UserError

BLOCK_VALUES = (1 << 15) - 1  # from 2¹⁵ on torch divides its work among threads


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Statistics:
    """Sums over trainable tokens in float64; adding two gives the statistics of both."""

    count: int
    sum: np.ndarray
    sum_square: float

    @classmethod
    def zero(cls, width: int) -> Self:
        """Statistics of no token, of sites `width` wide."""
        return cls(count=0, sum=np.zeros(width), sum_square=0.0)

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            count=self.count + other.count,
            sum=self.sum + other.sum,
            sum_square=self.sum_square + other.sum_square,
        )

    @property
    def mean(self) -> np.ndarray:
        """Mean activation, float64 [width]; zeros when nothing was counted."""
        return self.sum / max(self.count, 1)

    @property
    def mean_square(self) -> float:
        """E‖x‖², the mean squared norm of an activation."""
        return self.sum_square / max(self.count, 1)

    def to_json(self) -> dict[str, Any]:
        """`sum` travels as base64 of little-endian float64, so that nothing is rounded."""
        coded = base64.b64encode(self.sum.astype("<f8").tobytes()).decode()
        return {"count": self.count, "sum": coded, "sum_square": self.sum_square}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`, exactly."""
        total = np.frombuffer(base64.b64decode(value["sum"]), "<f8").astype(np.float64)
        return cls(count=value["count"], sum=total, sum_square=value["sum_square"])


def norms_of(x_NSD: torch.Tensor) -> np.ndarray:
    """‖x‖ of each token, float64 [N·S], the same with any number of threads."""
    blocks = x_NSD.flatten(0, 1).split(max(1, BLOCK_VALUES // x_NSD.shape[2]))
    return torch.cat([x_TD.double().square().sum(1) for x_TD in blocks]).sqrt().numpy()


def statistics_of(
    x_NSD: torch.Tensor, trainable_NS: torch.Tensor, first_sequence: int
) -> Statistics:
    """Statistics of the trainable tokens of `x_NSD`, whose first row is sequence `first_sequence`.

    Sums run in float64 over blocks that stay in a core's cache, five times as fast as over large
    ones, and so small that one thread takes them: the sums are the same with any number of threads,
    and do not wait for cores that the language model keeps busy. Raises UserError naming the first
    sequence with a NaN or infinity at a trainable token; other tokens may hold anything.
    """
    width = x_NSD.shape[2]
    sum_D = torch.zeros(width, dtype=torch.float64)
    sum_square = torch.zeros((), dtype=torch.float64)
    rows = max(1, BLOCK_VALUES // width)
    blocks = zip(x_NSD.flatten(0, 1).split(rows), trainable_NS.flatten().split(rows), strict=True)
    for x_TD, trainable_T in blocks:
        block_TD = (x_TD if trainable_T.all() else x_TD[trainable_T]).double()
        sum_D += block_TD.sum(0)
        sum_square += block_TD.square().sum()
    if not torch.isfinite(sum_square):
        bad_N = (trainable_NS & ~torch.isfinite(x_NSD).all(2)).any(1)
        raise UserError(
            f"found NaN or infinity at a trainable token of sequence "
            f"{first_sequence + int(bad_N.nonzero()[0])}; expected finite activations; "
            "drop such tokens (writer.non_finite=drop) or store as float32"
        )
    return Statistics(
        count=int(trainable_NS.sum()), sum=sum_D.numpy(), sum_square=float(sum_square)
    )
