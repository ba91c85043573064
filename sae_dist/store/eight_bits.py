"""Activations in eight bits: a whole number of -127 to 127 a value, and one scale a token.

x ≈ q · s with s = max|x| / 127, so that q · s is off by at most s / 2. Activations are given to a
store, and come back from it, as bfloat16, which rounds q · s to eight binary digits. A token with a
value that is not finite has scale NaN, and comes back as NaN throughout.
"""

from collections.abc import Mapping

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.store.arrays import scale_path, site_path
from sae_dist.store.shards import ShardReader
from sae_dist.store.statistics import BLOCK_VALUES

_MOST = 127


def quantise(array_NSD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q int8 [N, S, D], s float32 [N, S]) of bfloat16 values as numpy holds them."""
    x_TD = from_storage(array_NSD, FloatDtype.int8).flatten(0, 1)
    q_TD, s_T = torch.empty(x_TD.shape, dtype=torch.int8), torch.empty(len(x_TD))
    rows = max(1, BLOCK_VALUES // x_TD.shape[1])
    blocks = (part.split(rows) for part in (x_TD, q_TD, s_T))
    for x_RD, q_RD, s_R in zip(*blocks, strict=True):
        values_RD = x_RD.float()
        torch.mul(values_RD.abs().amax(1), 1 / _MOST, out=s_R)
        s_R[~s_R.isfinite()] = torch.nan
        torch.nan_to_num(values_RD / s_R[:, None], nan=0.0, out=values_RD)  # 0 / 0, and holes
        q_RD.copy_(values_RD.round_().clamp_(-_MOST, _MOST))
    return q_TD.numpy().reshape(array_NSD.shape), s_T.numpy().reshape(array_NSD.shape[:2])


def restore_into(q: np.ndarray, s: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` [..., D] with q · s in bfloat16, as numpy holds it; `s` has q's shape but D.

    In the thread that calls: a stream reads in several.
    """
    width = q.shape[-1]
    rows = max(1, BLOCK_VALUES // width)
    flat = (
        torch.from_numpy(q.reshape(-1, width)),
        torch.from_numpy(s.reshape(-1, 1)),
        from_storage(out.reshape(-1, width), FloatDtype.int8),
    )
    for q_RD, s_R1, out_RD in zip(*(part.split(rows) for part in flat), strict=True):
        torch.mul(q_RD, s_R1, out=out_RD)


def restored(q: np.ndarray, s: np.ndarray) -> np.ndarray:
    """q · s as a new array."""
    out = np.empty(q.shape, FloatDtype.int8.storage)
    restore_into(q, s, out)
    return out


def as_stored(
    arrays: Mapping[str, np.ndarray], dtype: FloatDtype
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of a unit's activations by site: what its files hold, by array, and what these give back."""
    if dtype is not FloatDtype.int8:
        return {site_path(site): array for site, array in arrays.items()}, dict(arrays)
    held: dict[str, np.ndarray] = {}
    given: dict[str, np.ndarray] = {}
    for site, array in arrays.items():
        q, s = quantise(array)
        held |= {site_path(site): q, scale_path(site): s}
        given[site] = restored(q, s)
    return held, given


class EightBitReader:
    """Reads the activations of one site as bfloat16, as a `ShardReader` does where they are so."""

    def __init__(self, values: ShardReader, scales: ShardReader) -> None:
        self._values, self._scales = values, scales

    def read_chunk(self, chunk: int) -> np.ndarray:
        """Chunk `chunk` [n, p, d]; raises like `ShardReader`."""
        return restored(self._values.read_chunk(chunk), self._scales.read_chunk(chunk))

    def read_chunk_into(self, chunk: int, out: np.ndarray) -> None:
        """Fill `out`, of a whole chunk (C order), by way of the values as they are stored."""
        values, scales = np.empty(out.shape, np.int8), np.empty(out.shape[:-1], np.float32)
        self._values.read_chunk_into(chunk, values)
        self._scales.read_chunk_into(chunk, scales)
        restore_into(values, scales, out)

    def read_sequences(self, sequences: range) -> np.ndarray:
        """Whole sequences [n, S, d]."""
        values = self._values.read_sequences(sequences)
        return restored(values, self._scales.read_sequences(sequences))


def site_reader(
    arrays: Mapping[str, ShardReader], site: str, dtype: FloatDtype
) -> ShardReader | EightBitReader:
    """What reads the activations of a site, from the readers of a store's arrays by path."""
    values = arrays[site_path(site)]
    if dtype is not FloatDtype.int8:
        return values
    return EightBitReader(values, arrays[scale_path(site)])


def passing_bytes(widths: Mapping[str, int], dtype: FloatDtype) -> int:
    """Bytes a token that are held beside a buffer while a chunk is read into it."""
    if dtype is not FloatDtype.int8:
        return 0
    return max(widths.values()) + np.dtype("float32").itemsize
