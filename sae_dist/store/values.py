"""What is made of a unit's values: their sums, their form in eight bits, their outliers."""

from collections.abc import Iterator, Mapping
from typing import Self

import msgspec
import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.common.errors import UserError
from sae_dist.store.config import NonFinite

_BLOCK_VALUES = (1 << 15) - 1  # from 2¹⁵ on torch divides its work among threads
_SUMMED_VALUES = 1 << 17
_LEAST_SQUARE = 1e-30  # of a value, in the mean: float32 has no digits far below


class Statistics(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """Sums over trainable tokens, float64; adding two gives the statistics of both."""

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


def _blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same rows of all, of the first [T, D] so few that torch works in one thread."""
    rows = max(1, _BLOCK_VALUES // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def statistics_of(
    x_NSD: torch.Tensor, trainable_NS: torch.Tensor, first_sequence: int
) -> Statistics:
    """Statistics of the trainable tokens of `x_NSD`, whose first row is sequence `first_sequence`.

    Blocks that stay in a core's cache are summed in float32, and all of them in float64: four times
    as fast as float64 throughout, and within 1e-6 of it at usual widths. One thread takes them: the
    sums are the same with any number of threads, and do not wait for cores that the language model
    keeps busy. Raises UserError naming the first sequence with a NaN or infinity at a trainable
    token; other tokens may hold anything.
    """
    sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float32)
    count = int(trainable_NS.sum())
    if not np.isfinite(sum_square):
        bad_N = (trainable_NS & ~torch.isfinite(x_NSD).all(2)).any(1)
        if bad_N.any():
            raise UserError(
                f"found NaN or infinity at a trainable token of sequence "
                f"{first_sequence + int(bad_N.nonzero()[0])}; expected finite activations; "
                "drop such tokens (writer.non_finite=drop) or store as float32"
            )
        sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float64)  # of squares beyond float32
    elif sum_square < _LEAST_SQUARE * count * x_NSD.shape[2]:  # or below it
        sum_D, sum_square = _sums(x_NSD, trainable_NS, np.float64)
    return Statistics(count=count, sum=sum_D, sum_square=sum_square)


def _sums(
    x_NSD: torch.Tensor, trainable_NS: torch.Tensor, block_dtype: type[np.floating]
) -> tuple[np.ndarray, float]:
    """(Σx float64 [D], Σ‖x‖²) over trainable tokens, each block of them in `block_dtype`."""
    width = x_NSD.shape[2]
    sum_D, sum_square = np.zeros(width), 0.0
    rows = max(1, _SUMMED_VALUES // width)
    block_TD = np.empty((rows, width), block_dtype)  # once: new memory is as slow as the sums
    blocks = zip(x_NSD.flatten(0, 1).split(rows), trainable_NS.flatten().split(rows), strict=True)
    with np.errstate(all="ignore"):  # the caller looks at what came out
        for x_TD, trainable_T in blocks:
            kept_TD = x_TD if trainable_T.all() else x_TD[trainable_T]
            summed_TD = block_TD[: len(kept_TD)]
            _fill(summed_TD, kept_TD)
            sum_D += summed_TD.sum(0)
            sum_square += float(np.vecdot(summed_TD, summed_TD).sum(dtype=np.float64))
    return sum_D, sum_square


def _fill(out_TD: np.ndarray, x_TD: torch.Tensor) -> None:
    """Copy `x_TD` to another dtype."""
    if x_TD.dtype is torch.bfloat16 and out_TD.dtype == np.float32:
        bits_TD = out_TD.view(np.uint32)  # a bfloat16 is a float32's upper half
        bits_TD[:] = x_TD.view(torch.uint16).numpy()
        bits_TD <<= 16
        return
    for x_RD, out_RD in _blocks(x_TD, torch.from_numpy(out_TD)):
        out_RD.copy_(x_RD)


_LARGEST = 127


def quantise(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q int8 [..., D], s float32 [...]) of bfloat16 values [..., D] as numpy holds them."""
    x_TD = from_storage(array.reshape(-1, array.shape[-1]), FloatDtype.int8)
    q_TD, s_T = torch.empty(x_TD.shape, dtype=torch.int8), torch.empty(len(x_TD))
    for x_RD, q_RD, s_R in _blocks(x_TD, q_TD, s_T):
        values_RD = x_RD.float()
        torch.mul(values_RD.abs().amax(1), 1 / _LARGEST, out=s_R)
        s_R[~s_R.isfinite()] = torch.nan
        torch.nan_to_num(values_RD / s_R[:, None], nan=0.0, out=values_RD)  # 0 / 0, and holes
        q_RD.copy_(values_RD.round_().clamp_(-_LARGEST, _LARGEST))
    return q_TD.numpy().reshape(array.shape), s_T.numpy().reshape(array.shape[:-1])


def restored(q: np.ndarray, s: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`out` [..., D], or a new array, filled with q · s in bfloat16, as numpy holds it.

    `s` has q's shape but D. In the thread that calls: a stream reads in several.
    """
    out = np.empty(q.shape, FloatDtype.int8.storage) if out is None else out
    q_TD, out_TD = (torch.from_numpy(array.reshape(-1, q.shape[-1])) for array in (q, out))
    s_T1 = torch.from_numpy(s.reshape(-1, 1))
    for q_RD, s_R1, out_RD in _blocks(q_TD, s_T1, out_TD.view(torch.bfloat16)):
        torch.mul(q_RD, s_R1, out=out_RD)
    return out


_LARGEST_SHARE = 0.02  # of a unit's trainable tokens: more is no outlier


def find_outliers(
    x_by_site: Mapping[str, torch.Tensor],
    trainable_NS: np.ndarray,
    non_finite: NonFinite,
    max_norm: float | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which of a unit's trainable tokens are left out, bool [N, S], and how many for each site.

    Args:
        x_by_site: the activations [N, S, D] of each site.
        trainable_NS: the tokens that may be trained on.
        non_finite: whether tokens that are not finite are left out (or stay, to be refused).
        max_norm: times the median norm of the site's trainable tokens; longer ones are left out.

    Raises UserError when it would be more than 2 % of the trainable tokens.
    """
    out_NS, per_site = np.zeros_like(trainable_NS), dict[str, int]()
    if non_finite is NonFinite.fail and max_norm is None:  # without a look at the values
        return out_NS, per_site
    for site, x_NSD in x_by_site.items():
        norms = [x_TD.double().square().sum(1) for (x_TD,) in _blocks(x_NSD.flatten(0, 1))]
        norms_NS = torch.cat(norms).sqrt().numpy().reshape(trainable_NS.shape)
        is_finite_NS = np.isfinite(norms_NS)
        is_out_NS = ~is_finite_NS if non_finite is NonFinite.drop else np.zeros_like(trainable_NS)
        if max_norm is not None and (counted_NS := is_finite_NS & trainable_NS).any():
            is_out_NS |= is_finite_NS & (norms_NS > max_norm * np.median(norms_NS[counted_NS]))
        is_out_NS &= trainable_NS
        out_NS |= is_out_NS
        if is_out_NS.any():
            per_site[site] = int(is_out_NS.sum())
    if out_NS.sum() > _LARGEST_SHARE * trainable_NS.sum():
        raise UserError(
            f"found {out_NS.sum()} of {trainable_NS.sum()} trainable tokens to drop {per_site}; "
            f"expected at most {_LARGEST_SHARE:.0%}; raise writer.max_norm, store as float32, or "
            "look at the language model"
        )
    return out_NS, per_site
