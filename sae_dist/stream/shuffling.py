"""How well an order mixes documents: from the order alone, nothing is read."""

from collections.abc import Iterable
from math import exp, lgamma

import numpy as np

from sae_dist.stream.order import TokenOrder


def distinct_share(
    order: TokenOrder, rows_per_chunk: np.ndarray, starts: np.ndarray, steps: Iterable[int]
) -> float:
    """Distinct documents in the batches of `steps`, over what full permutations would hold.

    Rows (trainable tokens) are numbered through all chunks of `rows_per_chunk`, with which `order`
    was made; document i has the rows from `starts[i]` up to `starts[i + 1]`.
    """
    firsts = np.concatenate([[0], np.cumsum(rows_per_chunk)])
    found = [
        len(np.unique(np.searchsorted(starts, batch_rows(order, firsts, step), side="right")))
        for step in steps
    ]
    return float(np.mean(found)) / expected_distinct(starts, order.lanes * order.lane_tokens)


def batch_rows(order: TokenOrder, firsts: np.ndarray, step: int) -> np.ndarray:
    """Row numbers [B] of one global batch; `firsts[c]` is that of the first row of chunk c."""
    taken: list[np.ndarray] = []
    for lane in range(order.lanes):
        missing = order.lane_tokens
        for segment in order.segments(lane, step):
            numbers = [np.arange(firsts[chunk], firsts[chunk + 1]) for chunk in segment.chunks]
            part = segment.rows[segment.first : segment.stop][:missing]
            taken.append(np.concatenate(numbers)[part])
            missing -= len(part)
            if not missing:
                break
    return np.concatenate(taken)


def expected_distinct(starts: np.ndarray, num_drawn: int) -> float:
    """Mean number of distinct documents among rows drawn without replacement.

    A document of n of N rows is missed by B draws with the hypergeometric probability
    C(N - n, B) / C(N, B).
    """
    num_rows = int(starts[-1])
    lengths, counts = np.unique(np.diff(starts), return_counts=True)
    missed = [_missed(int(length), num_rows, num_drawn) for length in lengths]
    return float(counts @ (1 - np.array(missed)))


def _missed(length: int, num_rows: int, num_drawn: int) -> float:
    others = num_rows - length
    if others < num_drawn:
        return 0.0
    ways = [lgamma(total + 1) - lgamma(total - num_drawn + 1) for total in (others, num_rows)]
    return exp(ways[0] - ways[1])
