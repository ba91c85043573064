"""How well an order mixes documents: from the order alone, nothing is read."""

from collections.abc import Iterable
from math import exp, lgamma

import numpy as np

from sae_dist.store.layout import Layout
from sae_dist.stream.order import TokenOrder


def rows_per_chunk(layout: Layout) -> np.ndarray:
    """Tokens of every chunk, int64 [num_chunks]: its rows, if all tokens are trained on."""
    sequences = [len(layout.sequences_of_chunk(chunk)) for chunk in range(layout.num_chunks)]
    return np.array(sequences, np.int64) * layout.chunk_positions


def distinct_share(
    order: TokenOrder, layout: Layout, starts: np.ndarray, steps: Iterable[int]
) -> float:
    """Distinct documents in the batches of `steps`, over what full permutations would hold.

    `order` is that of `rows_per_chunk(layout)`; document i has the tokens (numbered by sequence,
    then by position) from `starts[i]` up to `starts[i + 1]`.
    """
    found = [
        len(np.unique(np.searchsorted(starts, batch_index(order, layout, step), side="right")))
        for step in steps
    ]
    return float(np.mean(found)) / expected_distinct(starts, order.lanes * order.lane_tokens)


def batch_index(order: TokenOrder, layout: Layout, step: int) -> np.ndarray:
    """Token numbers [B] of one global batch."""
    taken: list[np.ndarray] = []
    for lane in range(order.lanes):
        missing = order.lane_tokens
        for segment in order.segments(lane, step):
            numbers = [_tokens(layout, chunk) for chunk in segment.chunks.tolist()]
            part = segment.rows[segment.first : segment.stop][:missing]
            taken.append(np.concatenate(numbers)[part])
            missing -= len(part)
            if not missing:
                break
    return np.concatenate(taken)


def _tokens(layout: Layout, chunk: int) -> np.ndarray:
    num_tokens = len(layout.sequences_of_chunk(chunk)) * layout.chunk_positions
    return layout.token_index(chunk, np.arange(num_tokens))


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
