"""Activations in eight bits: a whole number of -127 to 127 a value, and one scale a token.

x ≈ q · s with s = max|x| / 127, so that q · s is off by at most s / 2. Activations are given to a
store, and come back from it, as bfloat16, which rounds q · s to eight binary digits. A token with a
value that is not finite has scale NaN, and comes back as NaN throughout.
"""

import numpy as np
import torch

from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.store.statistics import BLOCK_VALUES

_LARGEST = 127


def quantise(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q int8 [..., D], s float32 [...]) of bfloat16 values [..., D] as numpy holds them."""
    x_TD = from_storage(array.reshape(-1, array.shape[-1]), FloatDtype.int8)
    q_TD, s_T = torch.empty(x_TD.shape, dtype=torch.int8), torch.empty(len(x_TD))
    rows = max(1, BLOCK_VALUES // x_TD.shape[1])
    blocks = (part.split(rows) for part in (x_TD, q_TD, s_T))
    for x_RD, q_RD, s_R in zip(*blocks, strict=True):
        values_RD = x_RD.float()
        torch.mul(values_RD.abs().amax(1), 1 / _LARGEST, out=s_R)
        s_R[~s_R.isfinite()] = torch.nan
        torch.nan_to_num(values_RD / s_R[:, None], nan=0.0, out=values_RD)  # 0 / 0, and holes
        q_RD.copy_(values_RD.round_().clamp_(-_LARGEST, _LARGEST))
    return q_TD.numpy().reshape(array.shape), s_T.numpy().reshape(array.shape[:-1])


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
